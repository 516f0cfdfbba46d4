"""Verbs about bearer tokens of the server."""

import json
from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, AsJson, app
from coldstart.serving.tokens import new_token, read_tokens, revoke_token

token = typer.Typer(help="Make, list and revoke the tokens that a server asks for.", no_args_is_help=True)
app.add_typer(token, name="token")

Name = Annotated[str, typer.Argument(help="Whose token it is; shown by `list`, needed by `revoke`.")]
File = Annotated[Path, typer.Option("--file", "-f", help="The recipe's serving.security.tokens_file.")]


@token.command(epilog="Example: coldstart token new ranking-service -f tokens")
def new(name: Name, file: File, as_json: AsJson = False) -> None:
    """Make a token and print it; only its hash is kept, so it cannot be shown again."""
    made = new_token(file, name)
    if as_json:
        print(json.dumps({"name": name, "token": made}))
    else:
        print(made)


@token.command("list", epilog="Example: coldstart token list -f tokens")
def names(file: File, as_json: AsJson = False) -> None:
    """List whose tokens are known."""
    known = list(read_tokens(file))
    if as_json:
        print(json.dumps(known))
    else:
        OUT.print("\n".join(known) or "none", markup=False)


@token.command(epilog="Example: coldstart token revoke ranking-service -f tokens")
def revoke(name: Name, file: File, as_json: AsJson = False) -> None:
    """Take a token away; servers that run refuse it within two seconds."""
    revoke_token(file, name)
    if as_json:
        print(json.dumps({"name": name, "revoked": True}))
    else:
        OUT.print(f"token '{name}' is revoked", markup=False)
