"""Turn a Kohya file (A1111, ComfyUI, sd-scripts) into a diffusers file, and say what became of every key.

Run: python examples/04_convert_kohya_to_diffusers.py [kohya.safetensors diffusers.safetensors]
(without files it converts a sample, which is trained the first time)
"""

import sys

from sample_adapters import sample_adapter

import lorica

source, destination = sys.argv[1:3] or (sample_adapter("style"), "diffusers.safetensors")

adapter = lorica.read(source)  # any format; a key without a use would be an error
report = adapter.report
print(f"{source} is in {report.format} format, for {report.base_model or 'an unnamed base model'}")
print(f"{len(report.used)} keys are used, {len(report.unused)} are not")

for component, layers in adapter.components.items():
    print(f"{component}: {len(layers)} modules")
print(f"ranks {sorted({layer.rank for _, _, layer in adapter.layers()})}")

done = lorica.convert(source, destination, to="diffusers")  # refused with a list if the format cannot hold it
same = lorica.read(done.path) == adapter  # compares every tensor, bit for bit
print(f"wrote {done.path}: {done.modules} modules, {done.size} bytes")
print(f"it holds {'the same' if same else 'other'} tensors")
