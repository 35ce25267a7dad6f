"""In HoliTom's dialect: methods of a class that cannot be made on its own; centres, distances, a merge in loops."""

import os
from abc import ABC, abstractmethod

import torch

from .formula import noisy_density, peak_score, scaled_distance


class Holistic(ABC):
    @abstractmethod
    def get_model(self): ...

    def cluster_dpc_knn(self, x, cluster_num, k=7):
        with torch.no_grad():
            distance = scaled_distance(x.float())
            score = peak_score(distance, noisy_density(distance, k, None))
            return score.topk(cluster_num, dim=-1).indices, distance

    def merge_tokens_by_clustering(self, feat, target_indices, dist_matrix, cluster_num, Beta):
        merged = []
        for tokens, targets, distance in zip(feat, target_indices, dist_matrix, strict=True):
            others = torch.tensor([i for i in range(len(tokens)) if i not in targets.tolist()])
            nearest = distance[others][:, targets].argmin(-1)
            for cluster, target in enumerate(targets):
                members = tokens[others[nearest == cluster]]
                if len(members) == 0:
                    merged.append(tokens[target])
                elif os.environ.get("NO_BETA", "0") == "0":
                    merged.append(Beta * tokens[target] + (1 - Beta) * members.mean(0))
                else:
                    merged.append(torch.cat([tokens[target][None], members]).mean(0))
        return torch.stack(merged).unflatten(0, (len(feat), cluster_num))

    def merge_tokens_by_density(self, feat, pos, retain_ratio, Beta, K):
        number = round(feat.shape[1] * retain_ratio)
        if number == 0:
            return torch.empty(len(feat), 0, feat.shape[2]), torch.empty(len(feat), 0)
        targets, distance = self.cluster_dpc_knn(feat, number, k=min(K, number))
        targets = targets.sort(-1).values
        positions = torch.stack([own[index] for own, index in zip(pos, targets, strict=True)])
        return self.merge_tokens_by_clustering(feat, targets, distance, number, Beta), positions


class Model(Holistic, torch.nn.Module):
    def get_model(self):
        return self

    def forward(self, feat):
        pos = torch.arange(feat.shape[1]).expand(len(feat), -1)
        return self.merge_tokens_by_density(feat, pos, 0.15, 0.6, 7)
