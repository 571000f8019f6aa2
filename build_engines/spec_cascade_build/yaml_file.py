"""YAML that refuses what PyYAML lets pass: a key written twice."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import yaml

from spec_cascade_build.pair_error import PairFileError

if TYPE_CHECKING:
    from pathlib import Path


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


def read_yaml(path: Path) -> object:
    """Read a YAML file.

    Raises:
        PairFileError: It cannot be read, or is not YAML; the line is named.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise PairFileError(f"{path}: no such pair file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PairFileError(f"{path} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PairFileError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise PairFileError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
