"""Small task files, and what a folder holds."""

ROWS = {"train": 40, "dev": 8, "test": 8}


def write_task(folder, name="mouse/2", **replaced):
    (folder / name).mkdir(parents=True)
    for start, (split, count) in zip("ACG", ROWS.items(), strict=True):
        lines = [f"{start}{'ACGTTGCA' * 3}{'ACGT'[row % 4]},{row % 2}" for row in range(count)]
        text = "\n".join(["sequence,label", *lines]) + "\n"
        if (text := replaced.get(split, text)) is not None:
            (folder / name / f"{split}.csv").write_text(text)


def listing(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
