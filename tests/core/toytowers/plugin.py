"""Names of the plugin of towers."""

from unlabel import hookimpl


@hookimpl
def tasks() -> dict[str, str]:
    return {"towers/match": "toytowers.match:Match", "towers/hue": "toytowers.hue:Hue"}


@hookimpl
def encoders() -> dict[str, str]:
    return {
        "towers/image": "toytowers.encoders:Image",
        "towers/deep": "toytowers.encoders:Deep",
        "towers/text": "toytowers.encoders:Text",
    }


@hookimpl
def observers() -> dict[str, str]:
    return {"towers/slow": "toytowers.slow:Slow"}


@hookimpl
def datasets() -> dict[str, str]:
    return {"towers/records": "toytowers.records:Records", "towers/labelled": "toytowers.records:Labelled"}
