"""Names of the toy plugin."""

from unlabel import hookimpl


@hookimpl
def tasks() -> dict[str, str]:
    return {"toy/echo": "toysonar.echo:Echo", "toy/strict": "toysonar.strict:Strict"}


@hookimpl
def encoders() -> dict[str, str]:
    return {"toy/linear": "toysonar.echo:linear", "toy/deep": "toysonar.strict:Deep"}


@hookimpl
def datasets() -> dict[str, str]:
    return {
        "toy/pings": "toysonar.pings:Pings",
        "toy/files": "toysonar.pings:Files",
        "toy/noise": "toysonar.pings:Noise",
        "toy/absent": "toysonar.absent:Absent",
    }


@hookimpl
def observers() -> dict[str, str]:
    return {"toy/stop": "toysonar.stop:Stop"}
