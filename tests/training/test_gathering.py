import pytest
import torch

from sercache.training.gathering import StagingRing

CPU = torch.device("cpu")


def test_what_was_sent_does_not_change_when_its_buffer_is_used_again():
    ring = StagingRing(torch.float16, CPU)
    sent = []
    for number, shape in enumerate([(2, 3), (1, 1), (4, 5, 2), (2, 2)]):
        staged = ring.take(shape)
        assert staged.shape == shape
        staged.fill_(number)
        sent.append(ring.send(staged))
    assert all((tensor == number).all() for number, tensor in enumerate(sent))
    assert ring.send(ring.take((3,)).fill_(5), torch.float32).dtype == torch.float32


def test_a_buffer_that_is_large_enough_is_used_again():
    ring = StagingRing(torch.int64, CPU)
    first = ring.take((10,)).data_ptr()
    assert ring.take((3, 3)).data_ptr() == first


def test_a_part_goes_where_it_is_told():
    ring = StagingRing(torch.float32, CPU)
    target = torch.zeros(5, 2)
    staged = ring.take((2, 2)).fill_(7)
    ring.send_into(target[1:3], staged)
    assert target[:, 0].tolist() == [0, 7, 7, 0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_pinned_buffer_is_not_overwritten_while_it_is_copied():
    device = torch.device("cuda")
    ring = StagingRing(torch.float32, device)
    sent = []
    for number in range(40):
        staged = ring.take((1 << 22,))
        assert staged.is_pinned()
        sent.append(ring.send(staged.fill_(number)))
    assert all((tensor == number).all().item() for number, tensor in enumerate(sent))
