// torch.ops.dynfocus_native.<op>: schemas, and the kernel of each device.
#include <torch/csrc/stable/library.h>

#include "cpu/ops.h"

STABLE_TORCH_LIBRARY(dynfocus_native, m) {
  m.def(
      "dpc_knn(Tensor x, int num_clusters, int k, Tensor? mask, float distance_scale, Tensor? noise)"
      " -> (Tensor assignment, Tensor centers, Tensor log_density, Tensor delta)");
  m.def("cluster_mean(Tensor x, Tensor assignment, int num_clusters, Tensor? weight) -> Tensor");
  m.def("cluster_mean_backward(Tensor grad, Tensor x, Tensor assignment, Tensor? weight) -> (Tensor grad_x, Tensor grad_weight)");
}

STABLE_TORCH_LIBRARY_IMPL(dynfocus_native, CPU, m) {
  m.impl("dpc_knn", TORCH_BOX(&dynfocus::cpu::dpc_knn));
  m.impl("cluster_mean", TORCH_BOX(&dynfocus::cpu::cluster_mean));
  m.impl("cluster_mean_backward", TORCH_BOX(&dynfocus::cpu::cluster_mean_backward));
}
