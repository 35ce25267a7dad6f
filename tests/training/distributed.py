"""What `torchrun` starts in test_distributed: DynFocus trained by two processes, by Trainer and in raw FSDP2."""

import dataclasses
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from dynfocus.training.collation import TrainingCollator
from dynfocus.training.encoding import IGNORED, SampleEncoder
from dynfocus.training.mixture import open_source
from dynfocus.training.recipe import load_recipe
from dynfocus.training.run import load_for_training, prepare_model, train
from dynfocus.training.trainable import optimizer_groups
from dynfocus.training.trainer import tower_calls, with_tower_calls
from tests.training import material


def raw_steps(recipe, rank=0, world=1, steps=2):
    """Losses and weights after steps of a bare loop on four samples, of which each process sees its share."""
    base, processor = load_for_training(recipe)
    model = prepare_model(base, recipe).train()
    if world > 1:
        for layer in [*model.language_model.model.layers, *model.vision_tower.encoder.layers]:
            fully_shard(layer)
        fully_shard(model.connector)
        fully_shard(model)
        assert type(next(model.parameters())).__name__ == "DTensor"
    optimizer = torch.optim.SGD(optimizer_groups(model, recipe))  # its steps show the size of gradients, Adam's do not
    source = open_source(recipe.data.sources[0])
    encoder, collate = SampleEncoder(processor, recipe.data), TrainingCollator(processor)
    examples = [encoder(source.samples[index], source) for index in range(4)]
    answers = sum(int((example["labels"][1:] != IGNORED).sum()) for example in examples)
    losses = []
    for _ in range(steps):
        share = [collate([example]) for example in examples[rank::world]]  # one of them is text alone
        total = torch.zeros(())
        for batch in share:
            if world > 1:
                calls = torch.tensor(tower_calls(model, batch))
                dist.all_reduce(calls, dist.ReduceOp.MAX)
                batch = with_tower_calls(model, batch, int(calls))
            loss = model(**batch, num_items_in_batch=answers).loss
            (loss * world).backward()  # FSDP takes the mean over processes
            total += loss.detach()
        if world > 1:
            dist.all_reduce(total)
        losses.append(float(total))
        optimizer.step()
        optimizer.zero_grad()
    return losses, get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def main(recipe_file: str, output: str) -> None:
    material.use_the_same_noise()
    recipe = load_recipe(recipe_file)
    train(recipe, Path(output) / "ddp")
    kept = dataclasses.replace(recipe.data, features=str(Path(output) / "features"))
    train(dataclasses.replace(recipe, data=kept), Path(output) / "kept")
    rank, world = dist.get_rank(), dist.get_world_size()
    losses, weights = raw_steps(recipe, rank, world)
    if rank == 0:
        torch.save({"losses": losses, "weights": weights}, Path(output) / "fsdp.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
