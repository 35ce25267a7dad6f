"""The clustering that other projects run, from its contract: the whole N x N matrix, densities, a masked minimum.

What differs between the projects is an argument here; the modules beside this one give it their names and signatures.
"""

import torch


def scaled_distance(points):
    return torch.cdist(points, points) / points.shape[-1] ** 0.5


def noisy_density(distance, k, valid, draw=torch.rand):
    density = torch.exp(-distance.topk(k, largest=False).values.pow(2).mean(-1))
    if draw is not None:
        density = density + 1e-6 * draw(density.shape, dtype=density.dtype)
    return density if valid is None else density * valid


def fill_empty_columns(distance, valid):
    return distance if valid is None else distance.masked_fill(~valid[:, None, :], (distance.max() + 1).item())


def peak_score(distance, density):
    strictly_denser = density[:, None, :] > density[:, :, None]
    largest = distance.amax((1, 2), keepdim=True)
    return density * torch.where(strictly_denser, distance, largest).amin(2)


def label(distance, centers, by_column):
    rows = torch.arange(len(centers))[:, None]
    to_centers = distance.mT[rows, centers] if by_column else distance[rows, centers]
    labels = to_centers.argmin(1)
    labels[rows, centers] = torch.arange(centers.shape[1]).expand_as(centers)
    return labels


def centers_and_labels(distance, num, k, valid=None, draw=torch.rand, without=None, by_column=False):
    distance = fill_empty_columns(distance, valid)
    score = peak_score(distance, noisy_density(distance, k, valid, draw))
    if without is not None:
        score[:, without] = -torch.inf
    centers = score.topk(num, dim=-1).indices
    return centers, label(distance, centers, by_column)


def weighted_sums(x, labels, num, weight, epsilon=1e-6):
    """(sum of x_i w_i / W_c, w_i / W_c), W_c = sum of w_i + epsilon, added up in x.dtype."""
    offset = labels + num * torch.arange(len(x))[:, None]
    total = weight.new_zeros(len(x) * num, 1).index_add(0, offset.flatten(), weight.flatten(0, 1)) + epsilon
    share = weight / total[offset]
    sums = x.new_zeros(len(x) * num, x.shape[-1])
    return sums.index_add(0, offset.flatten(), (x * share).to(x.dtype).flatten(0, 1)).unflatten(0, (-1, num)), share
