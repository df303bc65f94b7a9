"""The server's HTTP: requests, answers, and what is refused. Needs the extra `serve`."""
