"""IPython runs this first in each kernel of nbval: a stored output must not hang on a draw that nobody seeded.

Such an output holds on most days. From the first cell that draws from an unseeded generator on, every cell displays
a complaint; nbval names its type as an unexpected field of the output.
"""


def _watch_draws():
    import contextlib
    import random
    import sys

    import numpy as np
    from IPython import get_ipython
    from IPython.display import display

    with contextlib.suppress(ImportError):
        import rich.style  # noqa: F401  it numbers its objects at random when it is imported

    seeded, before, complaints = set(), {}, {}

    def torch_drew():
        # PyTorch's own first seed has 64 random bits; who seeds takes a small number.
        torch = sys.modules.get("torch")
        if torch is None or torch.initial_seed() < 2**32: return False
        untouched = torch.Generator().manual_seed(torch.initial_seed())
        return not untouched.get_state().equal(torch.get_rng_state())

    def states():
        _, key, place, *_ = np.random.get_state()
        return {"random": random.getstate(), "numpy.random": (key.tobytes(), place), "torch": torch_drew()}

    def remember(_=None):
        before.update(states())

    def complain(_):
        for name, state in states().items():
            if state != before[name] and name not in seeded:
                complaints[name] = f"a draw from {name} before lessonlib.core.set_seed"
        if complaints: display(dict.fromkeys(complaints.values(), ""), raw=True)

    def listen(module):
        seed = module.seed

        def heard(*args, **kwargs):
            if args or kwargs: seeded.add(module.__name__)
            return seed(*args, **kwargs)

        module.seed = heard

    remember()
    listen(random)
    listen(np.random)
    get_ipython().events.register("pre_run_cell", remember)
    get_ipython().events.register("post_run_cell", complain)


_watch_draws()
del _watch_draws
