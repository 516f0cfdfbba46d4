"""MIM: content interest, from two towers to the user's behavior. README.md says what is fact and what is ours."""
