"""Names of the right plugin."""

from unlabel import hookimpl


@hookimpl
def tasks() -> dict[str, str]:
    return {"right/echo": "toyright.echo:Echo", "right/phases": "toyright.phases:Phases"}


@hookimpl
def encoders() -> dict[str, str]:
    return {"right/linear": "toyright.encoders:linear", "right/open": "toyright.encoders:Open"}


@hookimpl
def datasets() -> dict[str, str]:
    return {
        "right/pings": "toyright.pings:Pings",
        "right/crowd": "toyright.pings:Crowd",
        "right/files": "toyright.pings:Files",
    }


@hookimpl
def evaluations() -> dict[str, str]:
    return {"right/spread": "toyright.listening:spread", "right/tide": "toyright.listening:tide"}


@hookimpl
def optimizers() -> dict[str, str]:
    return {"right/heavy": "toyright.heavy:HeavyBall"}


@hookimpl
def observers() -> dict[str, str]:
    return {"right/diary": "toyright.listening:Diary"}


@hookimpl
def commands() -> dict[str, str]:
    return {"listen": "toyright.listening:listen"}
