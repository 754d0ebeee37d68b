"""Build hook: compiles `proto/nbx/v1/nbx.proto` to `nbx/v1/` when the package is built or installed in place."""

from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtoBuildHook(BuildHookInterface[Any]):
    """Run protoc once per build; the result is never committed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate `nbx_pb2.py` and its stub; `version` and `build_data` are hatchling's and stay as they are."""
        from grpc_tools import protoc

        root = Path(self.root)
        out = root / "nbx" / "v1"
        out.mkdir(exist_ok=True)
        (out / "__init__.py").write_text('"""Messages of the gRPC face, generated from proto/nbx/v1/nbx.proto."""\n')
        arguments = [
            "protoc",
            f"-I{root / 'proto'}",
            f"-I{resources.files('grpc_tools') / '_proto'}",
            f"--python_out={root}",
            f"--pyi_out={root}",
            "nbx/v1/nbx.proto",
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc failed on proto/nbx/v1/nbx.proto: see its message above")
