import torch

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import rank_request
from coldstart.rankers.transformer import Transformer


def test_an_event_attends_only_to_strictly_earlier_events_in_its_window():
    torch.manual_seed(0)
    ranker = Transformer(30, RankerSettings(kind="transformer", embedding_dim=8, max_history=16)).eval()
    events = torch.randn(1, 11, 8, requires_grad=True)
    time = torch.tensor([[1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9]])
    encoded = ranker._encode_events(events, torch.ones(1, 11), time)
    for event, attended in ((0, []), (1, [0]), (5, [1, 2]), (6, [2, 3, 4, 5]), (10, [6, 7, 8, 9])):
        (gradient,) = torch.autograd.grad(encoded[0, event].square().sum(), events, retain_graph=True)
        assert torch.nonzero(gradient[0].any(-1)).flatten().tolist() == [*attended, event]


def test_a_target_depends_on_exactly_max_history_events():
    torch.manual_seed(0)
    ranker = Transformer(30, RankerSettings(kind="transformer", embedding_dim=8, max_history=8)).eval()
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    ranker.trained[:] = True
    items = list(range(1, 11))

    def score(history):
        batch = rank_request(history, [1] * 10, range(10), [20], 50, history=8)
        with torch.no_grad():
            return float(ranker(batch, ranker.id_slots(batch.target_idx)))

    plain = score(items)
    assert score([25, 25, *items[2:]]) == plain
    for position in range(2, 10):
        assert score([*items[:position], 25, *items[position + 1 :]]) != plain
