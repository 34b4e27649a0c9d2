#include "plan.h"

#include <algorithm>
#include <sstream>

namespace gru_fused::cuda {
namespace {

// Estimates, in nanoseconds, from public measurements of an H100 (docs/kernels.md); they rank the cuts and are not
// what a step takes.
constexpr double kClock = 1.7;                  // cycles
constexpr double kBarrier = 25, kFinish = 150;  // __syncthreads; gates, stores and the loop itself
constexpr double kClusterHop = 300, kPacketHop = 500, kFlagHop = 1100;
constexpr double kL2 = 4000;        // bytes, by all SMs
constexpr double kLaunch = 2500;    // one kernel after another
constexpr double kProduct = 400e3;  // operations of a large 16-bit matrix product

int ceil_div(int64_t a, int64_t b) { return int((a + b - 1) / b); }

double element_rate(Arithmetic arithmetic) {  // of kProduct
  switch (arithmetic) {
    case Arithmetic::f32:
      return 0.1;
    case Arithmetic::f64:
      return 0.1;
    case Arithmetic::tf32:
      return 0.5;
    default:
      return 1;
  }
}

// Cycles that a quarter of an SM is busy with one fragment and one tile.
double fragment_cycles(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
      return 20;  // 16 multiply-adds a lane, and its reads
    case Arithmetic::f64:
      return 20;
    default:
      return 10;
  }
}

double resident_step(const Device& device, const Plan& plan) {
  const Cut& cut = plan.cut;
  const Traits traits = traits_of(plan.arithmetic, plan.variant);
  const double fragments = double(kGates) * cut.steps_per_warp;
  const double busy = std::max(1.0, cut.warps() / 4.0);
  double cycles = fragments * cut.tiles * busy * fragment_cycles(plan.arithmetic);
  const double beyond = std::max(0, cut.steps_per_warp - traits.held);
  cycles += beyond * kGates * kFragmentBytes * cut.warps() * cut.tiles / 128;  // shared memory: 128 bytes a cycle
  double time = cycles / kClock + kFinish * ceil_div(cut.tiles, cut.splits) + (cut.splits > 1 ? 2 : 1) * kBarrier;
  const double operand = double(plan.rows()) * cut.units() * traits.operand_bytes * (plan.backward ? kGates : 1);
  switch (plan.exchange) {
    case Exchange::block:
      break;
    case Exchange::cluster:
      time += kClusterHop + operand / 64;  // what arrives at one SM
      break;
    case Exchange::packets:
      time += kPacketHop + 2 * operand * cut.ctas * plan.teams / kL2;
      break;
    case Exchange::flags:
      time += kFlagHop + operand * cut.ctas * plan.teams / kL2;
      break;
  }
  const int waves = ceil_div(int64_t(plan.teams) * cut.ctas, device.sms);
  return time * waves;
}

double separate_step(const Problem& problem) {
  const double operations = 6.0 * problem.batch * problem.hidden * problem.hidden * problem.directions;
  return 2 * kLaunch * problem.directions + operations / (kProduct * element_rate(problem.arithmetic));
}

class Search {
 public:
  Search(const Device& device, const Problem& problem) : device_(device), problem_(problem) {
    best_.arithmetic = problem.arithmetic;
    best_.backward = problem.backward;
    best_.variant = problem.variant;
    best_.step_nanoseconds = separate_step(problem);
  }

  void forbid_steps() { best_.step_nanoseconds = 1e300; }

  void consider(Regime regime, Exchange exchange, int groups_per_cta, int tiles) {
    Plan plan;
    plan.regime = regime;
    plan.exchange = exchange;
    plan.arithmetic = problem_.arithmetic;
    plan.backward = problem_.backward;
    plan.variant = problem_.variant;
    const Traits traits = traits_of(plan.arithmetic);
    Cut& cut = plan.cut;
    cut.groups = ceil_div(problem_.hidden, kGroup);
    cut.groups_per_cta = groups_per_cta;
    cut.ctas = ceil_div(cut.groups, groups_per_cta);
    cut.steps = cut.units() / traits.step;
    cut.splits = std::min(kMaxWarps / groups_per_cta, cut.steps);
    cut.steps_per_warp = ceil_div(cut.steps, cut.splits);
    cut.splits = ceil_div(cut.steps, cut.steps_per_warp);  // none without work
    cut.tiles = tiles;
    plan.row_teams = ceil_div(problem_.batch, plan.rows());
    plan.teams = plan.row_teams * problem_.directions;
    plan.shared_bytes = layout_of(plan.arithmetic, exchange, plan.backward, cut, plan.variant).bytes;

    if (plan.shared_bytes > device_.shared_bytes) return;
    if (regime == Regime::block && cut.ctas != 1) return;
    if (regime == Regime::cluster && (cut.ctas < 2 || cut.ctas > device_.max_cluster)) return;
    if (regime == Regime::grid && (cut.ctas < 2 || int64_t(cut.ctas) * plan.teams > device_.sms)) return;
    plan.step_nanoseconds = resident_step(device_, plan);
    if (plan.step_nanoseconds < best_.step_nanoseconds) best_ = plan;
  }

  Plan best() const { return best_; }

 private:
  const Device& device_;
  const Problem& problem_;
  Plan best_;
};

const char* name_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
      return "float32 (FMA)";
    case Arithmetic::f64:
      return "float64 (FMA)";
    case Arithmetic::tf32:
      return "float32 (TF32 tensor cores)";
    case Arithmetic::bf16:
      return "bfloat16 (tensor cores)";
    case Arithmetic::f16:
      return "float16 (tensor cores)";
  }
  return "";
}

const char* name_of(Regime regime) {
  switch (regime) {
    case Regime::block:
      return "block";
    case Regime::cluster:
      return "cluster";
    case Regime::grid:
      return "grid";
    case Regime::steps:
      return "steps";
  }
  return "";
}

const char* name_of(Exchange exchange) {
  switch (exchange) {
    case Exchange::block:
      return "shared memory";
    case Exchange::cluster:
      return "distributed shared memory";
    case Exchange::packets:
      return "packets in global memory";
    case Exchange::flags:
      return "words and a counter in global memory";
  }
  return "";
}

}  // namespace

Device make_device(int arch, int sms, int64_t shared_bytes, bool cooperative) {
  return {arch, sms, shared_bytes, arch >= 90 ? 8 : 1, cooperative};
}

Plan make_plan(const Device& device, const Problem& problem, const Allowed& allowed) {
  Search search(device, problem);
  // sm_75 has no tensor-core form used here and too little shared memory: every size goes step by step.
  if (device.arch < 80 || problem.batch == 0 || problem.hidden == 0) return search.best();
  if (!allowed.steps) search.forbid_steps();
  const int groups = ceil_div(problem.hidden, kGroup), rows = traits_of(problem.arithmetic).rows;
  const int all_tiles = ceil_div(problem.batch, rows);
  for (int tiles = 1; tiles <= 16; tiles *= 2) {
    if (tiles >= 2 * all_tiles) break;
    if (allowed.tiles && tiles != allowed.tiles) continue;
    for (int per_cta = 1; per_cta <= std::min(groups, kMaxWarps); ++per_cta) {
      if (allowed.groups_per_cta && per_cta != allowed.groups_per_cta) continue;
      if (allowed.block) search.consider(Regime::block, Exchange::block, per_cta, tiles);
      if (allowed.cluster) search.consider(Regime::cluster, Exchange::cluster, per_cta, tiles);
      if (!device.cooperative) continue;
      if (allowed.packets) search.consider(Regime::grid, Exchange::packets, per_cta, tiles);
      if (allowed.flags) search.consider(Regime::grid, Exchange::flags, per_cta, tiles);
    }
  }
  return search.best();
}

std::string describe(const Device& device, const Problem& problem, const Plan& plan) {
  std::ostringstream text;
  text << (problem.backward ? "backward" : "forward") << " on sm_" << device.arch << " (" << device.sms
       << " SMs), B=" << problem.batch << ", H=" << problem.hidden << ", directions=" << problem.directions << ", "
       << name_of(problem.arithmetic) << ": " << name_of(plan.regime) << ", ";
  if (plan.regime == Regime::steps) {
    text << "a matrix product and a kernel of the gates each";
  } else {
    const Cut& cut = plan.cut;
    const int held = std::min(cut.steps_per_warp, traits_of(plan.arithmetic, plan.variant).held);
    text << plan.teams << (plan.teams == 1 ? " team of " : " teams of ") << cut.ctas
         << (cut.ctas == 1 ? " CTA" : " CTAs") << " x " << plan.threads() << " threads, " << plan.rows()
         << " rows a team, " << cut.groups_per_cta * kGroup << " units a CTA, " << cut.splits
         << " warps a group; state by " << name_of(plan.exchange) << "; weights: " << held * kGates * 4
         << " registers a thread and " << (cut.steps_per_warp - held) * kGates * kFragmentBytes * cut.warps()
         << " bytes of " << plan.shared_bytes << " of shared memory";
  }
  text << "; estimated " << int64_t(plan.step_nanoseconds) << " ns a step (not measured)";
  return text.str();
}

}  // namespace gru_fused::cuda
