"""Ask a LoRA file what it is: base model, trainer, ranks, trigger words, and where it changes the model most.

Run: python examples/05_look_into_a_file.py [file.safetensors [model]]
(without a file it looks at a sample, which is trained the first time; a model is a folder, or a family such as sdxl)
"""

import sys

from sample_adapters import sample_adapter

import lorica

FILE = sys.argv[1] if len(sys.argv) > 1 else sample_adapter("style")
MODEL = sys.argv[2] if len(sys.argv) > 2 else "bundled"

facts = lorica.inspect(FILE, model=MODEL)  # reads the header; only norms and hashes read the rest
print(f"{facts.source}: {facts.modules} modules in {facts.format} format, made with {facts.trainer.title}")
print(f"for {facts.base.title}: {' '.join(facts.base.evidence)}")
print(f"ranks {dict(facts.ranks)}, words for the prompt: {facts.training.trigger_words or 'none named'}")
print(f"fits {facts.fit.model}: {facts.fit.whole} ({facts.fit.fitting} of {facts.fit.modules} modules)")

blocks = [(part.name, block) for part in facts.components for block in part.blocks]
largest = max(block.norm or 0.0 for _, block in blocks)
for name, block in blocks:
    print(f"{name:13} {block.name:40} {'#' * round(30 * (block.norm or 0.0) / largest)}")

for digest in facts.hashes:
    print(f"{digest.name}: {digest.value} ({digest.verdict})")
