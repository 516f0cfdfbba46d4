import json

from typer.testing import CliRunner

from coldstart.cli.app import app
from coldstart.serving.api.tokens import TokenFile


def said(*words: str) -> str:
    done = CliRunner().invoke(app, ["token", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout.strip()


def test_a_token_is_created_listed_and_revoked(tmp_path):
    file = str(tmp_path / "tokens")
    token = said("new", "anna", "-f", file)
    other = json.loads(said("new", "ben", "-f", file, "--json"))["token"]
    assert TokenFile(tmp_path / "tokens").name_of(token.encode()) == "anna"
    assert said("list", "-f", file).split() == ["anna", "ben"]
    said("revoke", "anna", "-f", file)
    assert json.loads(said("list", "-f", file, "--json")) == ["ben"]
    assert TokenFile(tmp_path / "tokens").name_of(other.encode()) == "ben"
