"""Variables of other programs that this server does not read, and what to use here instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_FOLDER = "The storage has one place: `--data`, or `--storage`."
_REDIS = "`REDIS_URL`. Redis counts requests and holds no jobs."
_ACCOUNT = "Google's models are not an engine of this server."
_NONE = "Nothing: there is one mode, and it is the safe one."

OTHER_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "DEFAULT_DPI": "The field `target_dpi` of a request.",
        "DEFAULT_UPSCALE_FACTOR": "The field `factor` of an upload, or a preset.",
        "FLASK_ENV": _NONE,
        "FLASK_SECRET_KEY": "`SECRET_KEY`.",
        "GCP_PROJECT_ID": _ACCOUNT,
        "GCP_REGION": _ACCOUNT,
        "LAMBDA_API_KEY": "Rent a machine, and use `comic-upscale remote`.",
        "MAX_FILE_SIZE_MB": "`MAX_UPLOAD_SIZE_BYTES`.",
        "ML_WORKER_ENABLED": "`--role`: `all` has a worker as a child process, `server` has none.",
        "MODEL_CACHE_DIR": "`COMIC_UPSCALE_WEIGHTS`: folders with weights.",
        "NODE_ENV": _NONE,
        "OUTPUT_DIR": _FOLDER,
        "PROCESSED_FOLDER": _FOLDER,
        "PYTHON_PATH": "Nothing: the worker runs in the Python of the server.",
        "REDIS_HOST": _REDIS,
        "REDIS_PORT": _REDIS,
        "SESSION_COOKIE_SECURE": "Nothing: over https, cookies are always secure.",
        "UPLOAD_DIR": _FOLDER,
        "UPLOAD_FOLDER": _FOLDER,
        "UPSCALED_IMAGES_DIR": _FOLDER,
        "UPSCALER_API_KEY": "Nothing: it belongs to a client.",
        "UPSCALER_API_URL": "Nothing: it belongs to a client.",
        "UPSCALER_ENABLED": "Nothing: a server that runs upscales.",
        "UPSCALER_MODEL": "An administrator makes a model the default.",
    }
)
"""What to use instead of each variable, a sentence in Markdown."""

COMMON = frozenset(("NODE_ENV", "FLASK_ENV", "PYTHON_PATH", "LAMBDA_API_KEY", "GCP_PROJECT_ID", "GCP_REGION"))
"""Variables that other programs on a machine may need. They are ignored without a note."""


def notes_on(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that is set and has no effect here."""
    return [
        f"{name} has no effect here. Instead: {words.replace('`', '')}"
        for name, words in OTHER_VARIABLES.items()
        if environment.get(name) and name not in COMMON
    ]
