"""Commands for the server's bearer tokens."""

import json
from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, AsJson, app
from coldstart.serving.api.tokens import new_token, read_tokens, revoke_token

token = typer.Typer(help="Create, list and revoke the bearer tokens of a server.", no_args_is_help=True)
app.add_typer(token, name="token")

Name = Annotated[str, typer.Argument(help="Name of the client; `list` shows it and `revoke` needs it.")]
File = Annotated[Path, typer.Option("--file", "-f", help="The recipe's serving.security.tokens_file.")]


@token.command(epilog="Example: coldstart token new ranking-service -f tokens")
def new(name: Name, file: File, as_json: AsJson = False) -> None:
    """Create a token and print it; only its hash is stored, so it cannot be shown again."""
    created = new_token(file, name)
    if as_json:
        print(json.dumps({"name": name, "token": created}))
    else:
        print(created)


@token.command("list", epilog="Example: coldstart token list -f tokens")
def names(file: File, as_json: AsJson = False) -> None:
    """List the names that have a token."""
    found = list(read_tokens(file))
    if as_json:
        print(json.dumps(found))
    else:
        OUT.print("\n".join(found) or "none", markup=False)


@token.command(epilog="Example: coldstart token revoke ranking-service -f tokens")
def revoke(name: Name, file: File, as_json: AsJson = False) -> None:
    """Revoke a token; running servers refuse it within two seconds."""
    revoke_token(file, name)
    if as_json:
        print(json.dumps({"name": name, "revoked": True}))
    else:
        OUT.print(f"token '{name}' is revoked", markup=False)
