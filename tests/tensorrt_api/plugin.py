"""Runs our plugin through TensorRT's own Python code for plugins, as a build would.

    python -m tests.tensorrt_api.plugin HEADS TOKENS WIDTH DTYPE      prints what TensorRT receives

Symbolic sizes are implemented in TensorRT's C++; here stand-ins compute with numbers and names.
"""

import json
import sys
from typing import Any

from tests.tensorrt_api import bindings

OPERATIONS = {"PROD": "*", "SUM": "+", "FLOOR_DIV": "//"}


def main(num_heads: int, tokens: int, width: int, dtype: str) -> dict[str, Any]:
    """The results of each step, in the order of TensorRT's calls."""
    trt: Any = bindings.load()
    from tensorrt.plugin import _lib, _plugin_class, _tensor

    creators = []
    _lib._register_plugin_creator = lambda *arguments: creators.append(arguments)
    from medfocus.export.tensorrt.plugin import register

    register(90)
    register(90)  # a second engine in one process

    class Expression(trt.IDimensionExpr):  # type: ignore[misc]
        value: int | str

        def is_constant(self) -> bool:
            return isinstance(self.value, int)

        def get_constant_value(self) -> int | str:
            return self.value

    def expression(value: int | str) -> Any:
        instance = trt.IDimensionExpr.__new__(Expression)
        instance.value = value
        return instance

    class Expressions:
        def constant(self, value: int) -> Any:
            return expression(value)

        def operation(self, operation: Any, first: Any, second: Any) -> Any:
            text = f"({first.value} {OPERATIONS[operation.name]} {second.value})"
            known = isinstance(first.value, int) and isinstance(second.value, int)
            return expression(eval(text) if known else text)

    kind, heads_width = getattr(trt.DataType, dtype), num_heads * width
    definition = _lib.QDP_REGISTRY["medfocus::masked_attention"]
    plugin = _plugin_class._TemplateAOTPlugin("masked_attention", "medfocus", 1)
    plugin.init(
        definition.register_func,
        {"num_heads": num_heads},
        definition.aot_impl_attr_names,
        definition.aot_impl_func,
        definition.autotune_attr_names,
        definition.autotune_func,
    )
    types = plugin.get_output_data_types([kind, trt.DataType.FLOAT], [3, 2])
    shapes: list[list[int | str]] = [["B", tokens, 3 * heads_width], ["B", tokens]]
    plugin.get_output_shapes(
        [[expression(size) for size in shape] for shape in shapes], [], Expressions()
    )
    output = [e._expr.value for e in plugin.output_descs[0].shape_expr]

    tensors = []
    for type_, *rest in (
        (kind, tokens, 3 * heads_width),
        (trt.DataType.FLOAT, tokens),
        (kind, tokens, heads_width),
    ):
        tensor = trt.DynamicPluginTensorDesc()
        tensor.desc.type = type_
        tensor.desc.format = trt.TensorFormat.LINEAR
        tensor.desc.dims, tensor.opt = trt.Dims((-1, *rest)), trt.Dims((8, *rest))
        tensors.append(tensor)
    formats = plugin.get_supported_format_combinations(tensors, 2)
    plugin.set_tactic(0)

    class Extra(dict[int, Any]):
        nbSymExprs = -1  # noqa: N815

    class Launch:
        pass

    # What is passed to C++ cannot be read back, so it is recorded before.
    original = _tensor.SymExprImpl.__init__

    def record(self: Any, symbol: Any) -> None:
        original(self, symbol)
        self.recorded = symbol._expr.value

    _tensor.SymExprImpl.__init__ = record

    launch, extra = Launch(), Extra()
    plugin.get_launch_params(None, tensors, 2, launch, extra, Expressions())
    name, ptx = plugin.get_kernel([t.desc for t in tensors[:2]], [tensors[2].desc])
    return {
        "creators": [creator[:2] for creator in creators],
        "attributes": {key: value.__name__ for key, value in definition.input_attrs.items()},
        "types": [t.name for t in types],
        "output": output,
        "formats": [(f.type.name, f.format.name) for f in formats],
        "launch": {key: value.recorded for key, value in vars(launch).items()},
        "extra": extra.nbSymExprs,
        "name": name,
        "ptx": ptx.decode(),
    }


if __name__ == "__main__":
    heads, tokens, width = map(int, sys.argv[1:4])
    found = main(heads, tokens, width, sys.argv[4])
    print()  # after what TensorRT's logger prints
    print(json.dumps(found))
