"""sgd.safetensors: five steps of SGD with momentum, and weight decay on the matrix alone."""

import torch

from fixture import Fixture

f = Fixture()
for name, momentum, decay in [("sgd", 0.9, 0.0), ("sgd_decay", 0.5, 0.1)]:
    f.seed(name)
    steps = 5
    start = dict(weight=f.normal(4, 7), bias=f.normal(7), alpha=f.normal(1, mean=0.5))
    grads = {key: f.normal(steps, *value.shape, scale=0.1) for key, value in start.items()}
    rates = [0.1, 0.5, 0.3, 0.2, 0.01]
    parameters = {key: torch.nn.Parameter(value.clone()) for key, value in start.items()}
    optimizer = torch.optim.SGD(
        [
            {"params": [parameters["weight"]], "weight_decay": decay},
            {"params": [parameters["bias"], parameters["alpha"]], "weight_decay": 0.0},
        ],
        lr=1.0,
        momentum=momentum,
    )
    after = {key: [] for key in start}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        for key, parameter in parameters.items():
            parameter.grad = grads[key][step].clone()
        optimizer.step()
        for key, parameter in parameters.items():
            after[key].append(parameter.detach().clone())
    for key in start:
        f.store(f"{name}/{key}.start", start[key])
        f.store(f"{name}/{key}.grad", grads[key])
        f.store(f"{name}/{key}.after", torch.stack(after[key]))
    f.store(f"{name}/lr", torch.tensor(rates))
    f.store(f"{name}/momentum", momentum)
    f.store(f"{name}/weight_decay", decay)
f.save("sgd.safetensors")
