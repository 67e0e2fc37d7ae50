"""From made-up clicks to a trained model, a checkpoint and a plot. Run it again: it goes on."""

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import torch_tpu_embedding as tte

USERS, MOVIES, B, EPOCHS, RUN = 1_000, 300, 256, 5, "first_steps_run"
# Each user has seen one to seven movies; the click on them depends on hidden tastes.
torch.manual_seed(0)
tastes, kinds = torch.randn(USERS, 4), torch.randn(MOVIES, 4)
users = torch.randint(USERS, (60_000,))
seen = [torch.randint(MOVIES, (n,)) for n in torch.randint(1, 8, (60_000,)).tolist()]
likes = torch.stack([kinds[movies].mean(0) for movies in seen]).mul(tastes[users]).sum(1) > 0
samples = [*zip(users, seen, likes.float(), strict=True)]


def collate(batch):  # ids stay on the host
    users, seen, clicks = zip(*batch, strict=True)
    return {"user": torch.stack(users), "seen": tte.Ragged.from_lists(seen)}, torch.stack(clicks)


train = DataLoader(samples[:54_000], B, shuffle=True, drop_last=True, collate_fn=collate)
test = DataLoader(samples[54_000:], B, collate_fn=collate)  # the last batch is smaller: fine
# Two tables on the device, and a dense head that reads their rows.
user_table = tte.TableConfig(USERS, 16, name="users")
movie_table = tte.TableConfig(MOVIES, 16, name="movies", combiner="mean")
features = {"user": tte.FeatureConfig(user_table), "seen": tte.FeatureConfig(movie_table)}
embedding = tte.TPUEmbedding(features, batch_size=B, optimizer=tte.Adam(0.01), seed=0)
head = torch.nn.Linear(16, 1).to(embedding.device)
optimizers = [tte.EmbeddingOptimizer(embedding), torch.optim.Adam(head.parameters(), 0.01)]
schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(each, EPOCHS) for each in optimizers]
loader = tte.EmbeddingLoader(  # a thread checks and sends the ids, and moves the clicks
    train, embedding, features=lambda b: b[0], prepare=lambda b: embedding.to_device(b[1])
)


def step(clicks):  # a function, so that its tensors are gone before sync
    rows = embedding.dequeue()  # [B, 16] each
    scores = head(rows["user"] * rows["seen"]).squeeze(1)
    torch.nn.functional.binary_cross_entropy_with_logits(scores, clicks).backward()
    for each in optimizers:
        each.step()
        each.zero_grad()


curve, stateful = [], [head, *optimizers, *schedulers]
if tte.checkpoint.complete_steps(RUN):  # resume, if there is something
    curve, states = tte.checkpoint.load(embedding, RUN).extra
    for each, state in zip(stateful, states, strict=True):
        each.load_state_dict(state)
for epoch in range(len(curve), EPOCHS):
    embedding.train()
    for clicks in tqdm(loader, f"epoch {epoch}"):
        step(clicks)
        tte.runtime.sync()
    embedding.eval()  # lookups await no gradients now
    right = []
    for ids, clicks in test:
        rows = embedding(ids)
        right.append((head(rows["user"] * rows["seen"]).squeeze(1).cpu() > 0) == (clicks > 0))
    curve.append(torch.cat(right).float().mean().item())
    for each in schedulers:
        each.step()
    tte.checkpoint.save(embedding, RUN, epoch, (curve, [each.state_dict() for each in stateful]))
    print(f"epoch {epoch}: {curve[-1]:.1%} right, {tte.runtime.compile_count()} programs compiled")
plt.plot(curve, "o-")
plt.savefig("first_steps.png")
