"""Update: newer events of the same catalog train what follows changing behavior, from the champion on."""

from coldstart.jobs import run_job

if __name__ == "__main__":
    run_job("update")
