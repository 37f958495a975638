"""Weights of one network as the start of another."""

from __future__ import annotations

from torch import nn

from facefoundry.backbones.small_resnet import SmallResNet


def start_from(student: nn.Module, teacher: nn.Module) -> int:
    """Copy the teacher's weights wherever name and shape agree (Sanh et al., "DistilBERT", 2019:
    a student made of some of the teacher's layers learns faster). A SmallResNet that is larger than
    its teacher starts as the same function. Returns how many were copied."""
    own, given = student.state_dict(), teacher.state_dict()
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(own | shared)
    if isinstance(student, SmallResNet) and isinstance(teacher, SmallResNet):
        student.grow_from(teacher)
    return len(shared)
