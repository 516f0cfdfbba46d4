"""The HTTP API of a gateway: routes, schemas, codecs, errors and the request guard. Free of Ray."""
