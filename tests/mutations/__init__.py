"""Known ways to break the code, each with the fast tests that must see it.

The lists are the `*.toml` files of this folder, one per family, of entries such as

    [[mutation]]
    breaks = "PPO learns without the masks it acted with"
    file = "agents/ppo.py"
    old = "batch.get(\"mask\")"
    new = "None"
    tests = ["tests/agents/test_ppo.py"]

`old` is text of `file` that occurs there exactly once; `tests` are files or node ids of pytest.
`python -m tests.mutations` applies each entry to a copy of the checkout and demands that its
tests fail; an entry whose text is no longer found is an error, so that the lists stay true.
"""
