"""YAML that refuses what PyYAML lets pass: a key written twice."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade.errors import SpecCascadeError


class _Loader(yaml.SafeLoader):
    """The safe loader, without silently dropped keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            continue  # construct_mapping has a message for it
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, what: str, error_class: type[SpecCascadeError]) -> object:
    """Read a YAML file.

    Args:
        path: The file.
        what: What it is, for the error's text.
        error_class: The error to raise.

    Raises:
        SpecCascadeError: It cannot be read, or is not YAML; the line is named.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise error_class(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise error_class(f"{path} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise error_class(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise error_class(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
