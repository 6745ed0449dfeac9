"""One module a format, each with a `read` that yields faces, and the files it skips with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from compgan_core.data.face import Face, Skipped
from compgan_core.data.importers import (
    celeba,
    ck_plus,
    cmu_faces,
    fer2013,
    jaffe,
    kdef,
    labelled_tree,
    procedural,
    rafd,
)
from compgan_core.data.importers.archives import Source
from compgan_core.errors import ConfigurationError, did_you_mean

FORMATS: dict[str, Callable[..., Iterator[Face | Skipped]]] = {
    "celeba": celeba.read,
    "ck-plus": ck_plus.read,
    "cmu-faces": cmu_faces.read,
    "fer2013": fer2013.read,
    "jaffe": jaffe.read,
    "kdef": kdef.read,
    "labelled-tree": labelled_tree.read,
    "procedural": procedural.read,  # takes no source
    "rafd": rafd.read,
}


def read(format: str, source: Source | None, options: Mapping[str, str]) -> Iterator[Face | Skipped]:  # noqa: A002
    """The faces of a source, and the files skipped. options and errors: as `check`."""
    values = check(format, source is not None, options)
    return FORMATS[format](**values) if source is None else FORMATS[format](source, **values)


def check(format: str, has_source: bool, options: Mapping[str, str]) -> dict[str, Any]:  # noqa: A002
    """The values of the options of a format.

    options: keyword arguments of the `read` of this format, as text.

    Raises:
        ConfigurationError: an unknown format or option, a value that the option does not take, or a source where there
            is none to be or none where there is.
    """
    if format not in FORMATS:
        raise ConfigurationError(f"there is no format {format!r}: {did_you_mean(format, sorted(FORMATS))}")
    kinds = get_type_hints(FORMATS[format], include_extras=True)
    del kinds["return"]
    takes_source = kinds.pop("source", None) is not None
    if takes_source and not has_source:
        raise ConfigurationError(f"{format} needs a source: name the archive or the directory")
    if has_source and not takes_source:
        raise ConfigurationError(f"{format} makes its own faces and reads no source: leave it out")
    return {name: _convert(format, name, value, kinds) for name, value in options.items()}


def _convert(format: str, name: str, value: str, kinds: Mapping[str, Any]) -> Any:  # noqa: A002
    if name not in kinds:
        hint = did_you_mean(name, sorted(kinds)) if kinds else "it has none"
        raise ConfigurationError(f"{format} has no option {name!r}: {hint}")
    try:
        return TypeAdapter(kinds[name]).validate_python(
            value.split(",") if get_origin(kinds[name]) is Sequence else value
        )
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigurationError(f"{format} cannot take {name}={value}: {problem[0].lower()}{problem[1:]}") from None
