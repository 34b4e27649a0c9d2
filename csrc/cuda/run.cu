// From a plan to a launch: residency is asked for, and every status is looked at.
#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <tuple>

#include "kernels.h"

namespace gru_fused::cuda {
namespace {

const LoopKernels& loops(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
      return loops_f32();
    case Arithmetic::f64:
      return loops_f64();
    case Arithmetic::tf32:
      return loops_tf32();
    case Arithmetic::bf16:
      return loops_bf16();
    case Arithmetic::f16:
      break;
  }
  return loops_f16();
}

const VariantLoopKernels& variant_loops(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
      return variant_loops_f32();
    case Arithmetic::f64:
      return variant_loops_f64();
    case Arithmetic::tf32:
      return variant_loops_tf32();
    case Arithmetic::bf16:
      return variant_loops_bf16();
    case Arithmetic::f16:
      break;
  }
  return variant_loops_f16();
}

const RowKernels& rows(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::bf16:
      return rows_bf16();
    case Arithmetic::f16:
      return rows_f16();
    default:
      return rows_f32();  // for TF32 too: there is no quicker form
  }
}

template <class AnyLoop>
struct Tag {};

// What CUDA is asked of a plan holds for a packed batch too.
auto* kernel_of(const Plan& plan, Tag<ForwardLoop>, bool packed = false) {
  if (plan.regime == Regime::row) return rows(plan.arithmetic).forward[packed][plan.cut.units() / kRowUnits - 1];
  return loops(plan.arithmetic).forward[int(plan.exchange)];
}
auto* kernel_of(const Plan& plan, Tag<BackwardLoop>, bool packed = false) {
  if (plan.regime == Regime::row) return rows(plan.arithmetic).backward[packed][plan.cut.units() / kRowUnits - 1];
  return loops(plan.arithmetic).backward[int(plan.exchange)];
}
auto* kernel_of(const Plan& plan, Tag<VariantForwardLoop>, bool = false) {
  return variant_loops(plan.arithmetic).forward[int(plan.exchange)];
}
auto* kernel_of(const Plan& plan, Tag<VariantBackwardLoop>, bool = false) {
  return variant_loops(plan.arithmetic).backward[int(plan.exchange)];
}

// A launch's description, with the attributes that it points to.
struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[1];

  Launch(const Plan& plan, int teams, cudaStream_t stream) {
    config.gridDim = dim3(unsigned(teams) * unsigned(plan.cut.ctas));
    config.blockDim = dim3(unsigned(plan.threads()));
    config.dynamicSmemBytes = size_t(plan.shared_bytes);
    config.stream = stream;
    config.attrs = attributes;
    if (plan.regime == Regime::cluster) {
      attributes[0].id = cudaLaunchAttributeClusterDimension;
      attributes[0].val.clusterDim.x = unsigned(plan.cut.ctas);
      attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
      config.numAttrs = 1;
    } else if (plan.regime == Regime::grid) {
      attributes[0].id = cudaLaunchAttributeCooperative;
      attributes[0].val.cooperative = 1;
      config.numAttrs = 1;
    }
  }
  Launch(const Launch&) = delete;
};

std::string problem_text(const Plan& plan, const char* what, cudaError_t status) {
  return std::string(plan.backward ? "backward_loop" : "forward_loop") + " with " + std::to_string(plan.teams) +
         " teams of " + std::to_string(plan.cut.ctas) + " CTAs x " + std::to_string(plan.threads()) + " threads and " +
         std::to_string(plan.shared_bytes) + " bytes of shared memory, H <= " + std::to_string(plan.cut.units()) +
         ": " + what + ": " + cudaGetErrorString(status);
}

// Guards what is asked of CUDA once and for all threads: limits and answers.
std::mutex& once() {
  static std::mutex mutex;
  return mutex;
}

// A kernel has one limit of shared memory on a device, and threads whose plans differ share the kernel: it is only ever
// raised. Under once().
template <class Kernel>
cudaError_t prepare(const Plan& plan, Kernel* kernel) {
  struct Limits {
    int64_t shared_bytes = -1;
    bool large_clusters = false;
  };
  static std::map<std::pair<int, Kernel*>, Limits> of_device;
  int device = 0;
  if (const cudaError_t status = cudaGetDevice(&device)) return status;
  Limits& limits = of_device[{device, kernel}];
  const auto set = [&](cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
  };
  if (plan.regime == Regime::cluster && plan.cut.ctas > kPortableCluster && !limits.large_clusters) {
    if (const cudaError_t status = set(cudaFuncAttributeNonPortableClusterSizeAllowed, 1)) return status;
    limits.large_clusters = true;
  }
  if (plan.shared_bytes <= limits.shared_bytes) return cudaSuccess;
  if (const cudaError_t status = set(cudaFuncAttributeMaxDynamicSharedMemorySize, int(plan.shared_bytes)))
    return status;
  limits.shared_bytes = plan.shared_bytes;
  return cudaSuccess;
}

// CTAs of a plan that an SM has room for at once, or clusters that the device has.
template <class Kernel>
cudaError_t ask_count(const Plan& plan, Kernel* kernel, int& count) {
  if (const cudaError_t status = prepare(plan, kernel)) return status;
  if (plan.regime != Regime::cluster)
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel, plan.threads(), size_t(plan.shared_bytes));
  const Launch launch(plan, plan.teams, nullptr);
  return cudaOccupancyMaxActiveClusters(&count, kernel, &launch.config);
}

template <class Kernel>
cudaError_t ask_resident(const Device& device, const Plan& plan, Kernel* kernel, bool& resident) {
  // The answers of a device do not change, and every call would ask.
  static std::map<std::tuple<int, int, int, int64_t, Kernel*, int, int64_t, int>, int> answers;
  const int cluster = plan.regime == Regime::cluster ? plan.cut.ctas : 0;
  const std::tuple question(device.index, device.arch, device.sms, device.shared_bytes, kernel, plan.threads(),
                            plan.shared_bytes, cluster);
  const std::lock_guard lock(once());
  auto answer = answers.find(question);
  if (answer == answers.end()) {
    int count = 0;
    if (const cudaError_t status = ask_count(plan, kernel, count)) return status;
    answer = answers.emplace(question, count).first;
  }
  const int64_t count = answer->second;
  // Neither clusters nor single CTAs wait for each other: one at a time is enough.
  resident =
      plan.regime == Regime::grid ? count * device.sms >= int64_t(plan.teams_at_once) * plan.cut.ctas : count > 0;
  return cudaSuccess;
}

cudaError_t ask_resident(const Device& device, const Plan& plan, bool& resident) {
  const auto ask = [&](auto loop) { return ask_resident(device, plan, kernel_of(plan, loop), resident); };
  if (plan.variant) return plan.backward ? ask(Tag<VariantBackwardLoop>()) : ask(Tag<VariantForwardLoop>());
  return plan.backward ? ask(Tag<BackwardLoop>()) : ask(Tag<ForwardLoop>());
}

template <class AnyLoop>
std::string run(const Plan& plan, AnyLoop& loop, void* workspace, cudaStream_t stream) {
  loop.cut = plan.cut;
  loop.row_teams = plan.row_teams;
  loop.exchange = workspace;
  auto* const kernel = kernel_of(plan, Tag<AnyLoop>(), loop.shape.batch_sizes != nullptr);
  if (const int64_t bytes = workspace_bytes(plan))
    if (const cudaError_t status = cudaMemsetAsync(workspace, 0, size_t(bytes), stream))
      return problem_text(plan, "clearing the exchange's memory", status);
  {
    const std::lock_guard lock(once());
    if (const cudaError_t status = prepare(plan, kernel)) return problem_text(plan, "shared memory", status);
  }
  for (loop.first_team = 0; loop.first_team < plan.teams; loop.first_team += plan.teams_at_once) {
    const Launch launch(plan, std::min(plan.teams_at_once, plan.teams - loop.first_team), stream);
    if (const cudaError_t status = cudaLaunchKernelEx(&launch.config, kernel, loop))
      return problem_text(plan, "launch", status);
  }
  return {};
}

std::string search_resident(const Device& device_first, const Problem& problem, const Allowed& allowed_first,
                            Plan& plan) {
  Device device = device_first;
  Allowed allowed = allowed_first;
  for (;;) {
    plan = make_plan(device, problem, allowed);
    if (plan.regime == Regime::steps || plan.regime == Regime::single) return {};
    bool resident = false;
    const cudaError_t status = ask_resident(device, plan, resident);
    if (status != cudaSuccess) return problem_text(plan, "asking for residency", status);
    if (resident) return {};
    switch (plan.exchange) {
      case Exchange::block:
        allowed.block = false;
        break;
      case Exchange::cluster:
        if (plan.cut.ctas > kPortableCluster)
          device.max_cluster = kPortableCluster;
        else
          allowed.cluster = false;
        break;
      case Exchange::row:
        allowed.row = false;
        break;
      case Exchange::packets:
      case Exchange::flags:  // both need the same
        allowed.packets = allowed.flags = false;
        break;
    }
    allowed.steps = true;
  }
}

}  // namespace

std::string current_device(Device& device) {
  int index = 0;
  if (const cudaError_t status = cudaGetDevice(&index)) return cudaGetErrorString(status);
  const auto ask = [&](cudaDeviceAttr what) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, what, index) == cudaSuccess ? value : 0;
  };
  device = make_device(10 * ask(cudaDevAttrComputeCapabilityMajor) + ask(cudaDevAttrComputeCapabilityMinor),
                       ask(cudaDevAttrMultiProcessorCount), ask(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                       ask(cudaDevAttrCooperativeLaunch));
  device.index = index;
  return {};
}

std::string resident_plan(const Device& device, const Problem& problem, const Allowed& allowed, Plan& plan) {
  // A thread's last answers: a search takes microseconds, which a call of one step would notice.
  struct Answer {
    Device device;
    Problem problem;
    Allowed allowed;
    Plan plan;
  };
  static thread_local std::array<Answer, 16> answers;
  Answer& answer = answers[size_t(problem.batch + 3 * problem.hidden + 2 * problem.backward) % answers.size()];
  if (answer.device == device && answer.problem == problem && answer.allowed == allowed) {
    plan = answer.plan;
    return {};
  }
  std::string wrong = search_resident(device, problem, allowed, plan);
  if (wrong.empty()) answer = {device, problem, allowed, plan};
  return wrong;
}

int64_t workspace_bytes(const Plan& plan) {
  if (plan.regime != Regime::grid) return 0;
  const Layout layout = layout_of(plan.arithmetic, plan.exchange, plan.backward, plan.cut);
  return plan.teams * exchange_bytes(plan.exchange, plan.rows(), layout.operand_words);
}

std::string run_loop(const Plan& plan, ForwardLoop loop, void* workspace, cudaStream_t stream) {
  return run(plan, loop, workspace, stream);
}

std::string run_loop(const Plan& plan, BackwardLoop loop, void* workspace, cudaStream_t stream) {
  return run(plan, loop, workspace, stream);
}

std::string run_loop(const Plan& plan, VariantForwardLoop loop, void* workspace, cudaStream_t stream) {
  return run(plan, loop, workspace, stream);
}

std::string run_loop(const Plan& plan, VariantBackwardLoop loop, void* workspace, cudaStream_t stream) {
  return run(plan, loop, workspace, stream);
}

}  // namespace gru_fused::cuda
