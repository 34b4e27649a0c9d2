#include "plan.h"

#include <algorithm>
#include <sstream>

namespace gru_fused::cuda {
namespace {

// What a step takes, in nanoseconds, as a sum of what its parts take. The constants are a fit to the times of every cut
// of 52 sizes, forward and backward, on an H200 (docs/notes/2026-11-26-gpu-2.md); the cut that they rank first is on
// average 1.1 percent slower than the fastest of that size. Those of a row alone are read off a table of 22 sizes
// (docs/notes/2026-11-26-gpu-3.md). On other devices they are an estimate.
struct PerStep {
  double fma, mma;
};
constexpr PerStep kBase{346, 525};                               // the gates, the sums over the splits, the loop
constexpr PerStep kFragment{13.7, 3.3}, kFragmentBack{23, 6.2};  // of a warp's, on a quarter of an SM
constexpr double kShared = 2;                                    // a kilobyte of weights read from shared memory
constexpr double kPiece = 257, kPieceBack = 293;                 // each of a warp's pieces after the first
// Exchanges: what one adds, forward and backward; a kilobyte of the operand at each member; a megabyte at all of them.
struct PerExchange {
  double forward, backward, kilobyte, megabyte;
};
constexpr PerExchange kExchanges[] = {{100, 0, 0, 0}, {257, 214, 39, 0}, {816, 719, 80, 76}, {1413, 1239, 34, 9}};
constexpr double kLargeKilobyte = 60;  // in a cluster of more CTAs than any device must have room for
// Before the first step a team is launched and loads its weights; a fragment of each gate, of a warp's.
constexpr double kTeam = 3500, kLoad = 600;
// A row alone: the chain, and a number of W_hh; of CTAs that share an SM each one after the first adds the third for a
// number. Before the first step, a launch and a unit.
struct PerRow {
  double base, weight, shared;
};
constexpr PerRow kRow{170, 0.0082, 0.0133}, kRowBack{160, 0.009, 0.018};
constexpr double kRowTeam = 500, kRowUnit = 42;
constexpr int kRegisters = 65536;
constexpr int64_t kMaxRows = 1 << 18;  // more never pay, and their arrays' steps are of less than 4 GB
// A step without a team: two launches, which the host takes longer for than the device in a sequence; reading its
// weights, bytes a nanosecond, or the product (docs/notes/2026-11-26-gpu-4.md).
constexpr double kLaunches = 13000, kLaunchesAlone = 9000, kWeights = 2500;
struct PerProduct {
  double fma, tf32, narrow;  // operations a nanosecond
};
constexpr PerProduct kProduct{37e3, 170e3, 400e3};

// A single step with all its products, at so many multiply-adds a nanosecond. All others need products besides, which
// none of these times counts: of the inputs, and in the backward of the weights' gradients
// (docs/notes/2026-11-27-single-steps.md).
constexpr double kSingle = 2500, kSingleRate = 8e3, kSingleRateBack = 2.8e3, kOtherProduct = 15000;
constexpr int64_t kMaxSingleRows = 1024;

int ceil_div(int64_t a, int64_t b) { return int((a + b - 1) / b); }

bool is_fma(Arithmetic arithmetic) { return arithmetic == Arithmetic::f32 || arithmetic == Arithmetic::f64; }

double of(const PerStep& cost, Arithmetic arithmetic) { return is_fma(arithmetic) ? cost.fma : cost.mma; }

// A cluster is within one of the groups of 16 to 18 SMs that a device is made of, some of which may be off.
int clusters_at_once(const Device& device, int ctas) { return std::max(1, int(16 / ctas * (device.sms / 17.5))); }

double resident_step(const Device& device, const Plan& plan) {
  const Cut& cut = plan.cut;
  const Traits traits = traits_of(plan.arithmetic, plan.variant);
  const int64_t rows = std::min(plan.rows(), plan.batch);  // of a team
  const int tiles = ceil_div(rows, traits.rows), pieces = ceil_div(ceil_div(rows, kPieceRows), cut.splits);
  const double busy = std::max(1.0, cut.warps() / 4.0);
  const double fragments = kGates * cut.steps_per_warp * tiles * busy;
  const double beyond = std::max(0, cut.steps_per_warp - traits.held) * kGates * kFragmentBytes * cut.warps() * tiles;
  const double operand = double(rows) * cut.units() * traits.operand_bytes * (plan.backward ? kGates : 1);
  const PerExchange& exchange = kExchanges[int(plan.exchange)];
  double time = of(kBase, plan.arithmetic);
  time += fragments * of(plan.backward ? kFragmentBack : kFragment, plan.arithmetic) + kShared * beyond / 1024;
  time += (pieces - 1) * busy * (plan.backward ? kPieceBack : kPiece);
  const bool large = plan.regime == Regime::cluster && cut.ctas > kPortableCluster;
  time += plan.backward ? exchange.backward : exchange.forward;
  time += (large ? kLargeKilobyte : exchange.kilobyte) * operand / 1024;
  time += exchange.megabyte * operand * cut.ctas * plan.teams_at_once / (1 << 20);
  if (plan.steps > 0) time += (kTeam + kLoad * cut.steps_per_warp) / double(plan.steps);
  if (plan.regime == Regime::grid) return time * ceil_div(plan.teams, plan.teams_at_once);
  if (plan.regime == Regime::block) return time * ceil_div(plan.teams, device.sms);
  return time * ceil_div(plan.teams, clusters_at_once(device, cut.ctas));
}

double row_step(const Device& device, const Plan& plan) {
  const int units = plan.cut.units();
  const double weights = kGates * double(units) * units;
  const PerRow& cost = plan.backward ? kRowBack : kRow;
  const int at_once = kRegisters / (plan.threads() * std::min(48 + units, 128));  // on an SM
  const int of_sm = std::min(at_once, ceil_div(plan.teams, device.sms));
  double time = cost.base + (cost.weight + cost.shared * (of_sm - 1)) * weights;
  if (plan.steps > 0) time += (kRowTeam + kRowUnit * units) / double(plan.steps);
  return time * ceil_div(plan.teams, int64_t(at_once) * device.sms);
}

double separate_step(const Problem& problem) {
  const double weights = 3.0 * problem.hidden * problem.hidden * problem.directions;
  const double rate = is_fma(problem.arithmetic)               ? kProduct.fma
                      : problem.arithmetic == Arithmetic::tf32 ? kProduct.tf32
                                                               : kProduct.narrow;
  const double product = std::max(2 * weights * double(problem.batch) / rate,
                                  weights * traits_of(problem.arithmetic).operand_bytes / kWeights);
  return (problem.steps == 1 ? kLaunchesAlone : kLaunches) * problem.directions + product;
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
    Plan plan = of_problem(regime, exchange);
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
    if (regime == Regime::grid && (cut.ctas < 2 || cut.ctas > device_.sms)) return;
    plan.teams_at_once = regime == Regime::grid ? std::min(plan.teams, device_.sms / cut.ctas) : plan.teams;
    plan.step_nanoseconds = resident_step(device_, plan);
    if (plan.step_nanoseconds < best_.step_nanoseconds) best_ = plan;
  }

  void consider_row() {
    Plan plan = of_problem(Regime::row, Exchange::row);
    if (plan.arithmetic == Arithmetic::f64 || plan.variant) return;
    if (problem_.hidden > kMaxRowUnits || problem_.batch > kMaxRows) return;
    Cut& cut = plan.cut;
    const int units = ceil_div(problem_.hidden, kRowUnits) * kRowUnits;
    cut.groups = cut.groups_per_cta = units / kGroup;
    cut.ctas = 1;
    cut.splits = kGroup * kRowLanes / kWarp;
    plan.row_teams = int(problem_.batch);
    plan.teams = plan.teams_at_once = plan.row_teams * problem_.directions;
    plan.shared_bytes = row_shared_bytes(units, plan.backward);
    plan.step_nanoseconds = row_step(device_, plan);
    if (plan.step_nanoseconds < best_.step_nanoseconds) best_ = plan;
  }

  void consider_single() {
    if (problem_.steps != 1 || problem_.variant || problem_.batch > kMaxSingleRows) return;
    Plan plan = of_problem(Regime::single, Exchange::block);
    const int64_t inputs = problem_.inputs < 0 ? problem_.hidden : problem_.inputs;
    const double weights = double(kGates) * problem_.hidden * (inputs + problem_.hidden) * problem_.directions;
    const int sweeps = problem_.backward ? 2 : 1, others = problem_.backward ? 3 : 1;
    const double rate = problem_.backward ? kSingleRateBack : kSingleRate;
    plan.step_nanoseconds = sweeps * (kSingle + weights * double(problem_.batch) / rate);
    if (plan.step_nanoseconds < best_.step_nanoseconds + others * kOtherProduct) best_ = plan;
  }

  Plan best() const { return best_; }

 private:
  Plan of_problem(Regime regime, Exchange exchange) const {
    Plan plan;
    plan.regime = regime;
    plan.exchange = exchange;
    plan.arithmetic = problem_.arithmetic;
    plan.backward = problem_.backward;
    plan.variant = problem_.variant;
    plan.batch = problem_.batch;
    plan.steps = problem_.steps;
    return plan;
  }

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
    case Regime::row:
      return "row";
    case Regime::single:
      return "single";
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
    case Exchange::row:
      return "shared memory";
  }
  return "";
}

}  // namespace

Device make_device(int arch, int sms, int64_t shared_bytes, bool cooperative) {
  const int cluster = arch < 90 ? 1 : arch < 120 ? 16 : kPortableCluster;
  return {arch, sms, shared_bytes, cluster, cooperative};
}

Plan make_plan(const Device& device, const Problem& problem, const Allowed& allowed) {
  Search search(device, problem);
  // sm_75 has no tensor-core form used here and too little shared memory: every size goes step by step.
  if (device.arch < 80 || problem.batch == 0 || problem.hidden == 0) return search.best();
  if (!allowed.steps) search.forbid_steps();
  if (allowed.row) search.consider_row();
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
  if (allowed.single) search.consider_single();
  return search.best();
}

std::string describe(const Device& device, const Problem& problem, const Plan& plan) {
  std::ostringstream text;
  text << (problem.backward ? "backward" : "forward") << " on sm_" << device.arch << " (" << device.sms
       << " SMs), B=" << problem.batch << ", H=" << problem.hidden << ", directions=" << problem.directions << ", "
       << name_of(problem.arithmetic) << ": " << name_of(plan.regime) << ", ";
  if (plan.regime == Regime::steps) {
    text << "a matrix product and a kernel of the gates each";
  } else if (plan.regime == Regime::single) {
    text << (plan.backward ? "a kernel for each direction and one more" : "one kernel") << ", all products too";
  } else {
    const Cut& cut = plan.cut;
    const bool row = plan.regime == Regime::row;
    const int held = std::min(cut.steps_per_warp, traits_of(plan.arithmetic, plan.variant).held);
    text << plan.teams << (plan.teams == 1 ? " team of " : " teams of ") << cut.ctas
         << (cut.ctas == 1 ? " CTA" : " CTAs") << " x " << plan.threads() << " threads, ";
    if (plan.teams_at_once < plan.teams) text << plan.teams_at_once << " at once, ";
    text << plan.rows() << " rows a team, " << cut.groups_per_cta * kGroup << " units a CTA, " << cut.splits
         << " warps a group; state by " << name_of(plan.exchange)
         << "; weights: " << (row ? kGates * cut.units() / kRowLanes : held * kGates * 4) << " registers a thread and "
         << (cut.steps_per_warp - held) * kGates * kFragmentBytes * cut.warps() << " bytes of " << plan.shared_bytes
         << " of shared memory";
  }
  text << "; estimated " << int64_t(plan.step_nanoseconds) << " ns a step (not measured)";
  return text.str();
}

}  // namespace gru_fused::cuda
