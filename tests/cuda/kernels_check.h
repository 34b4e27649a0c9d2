// What the programs share that run the CUDA kernels, through their launcher, over small shapes against plain loops in
// double; for sanitizers to watch, and for planted bugs to be found by.
//
//   PROGRAM ARITHMETIC EXCHANGE PASS [ORDER [SEED [SIZE]]]
//
// ARITHMETIC: f32, f64, tf32, bf16, f16; EXCHANGE: block, cluster, packets, flags, row, or steps for the kernels
// without a loop; PASS: forward, backward or both; ORDER: fifo, lifo, random; SIZE: all, or small for the cuts with few
// threads. Every array is a heap block of its exact size, so that AddressSanitizer sees a step past any end.
#pragma once

#include "../native/matrix.h"
#include "cuda/kernels.h"
#include "emulator.h"

using namespace gru_fused::cuda;

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

DType dtype_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f64:
      return DType::f64;
    case Arithmetic::bf16:
      return DType::bf16;
    case Arithmetic::f16:
      return DType::f16;
    default:
      return DType::f32;
  }
}

double bound_of(Arithmetic arithmetic) {  // at the scale of the numbers here, a few units
  switch (arithmetic) {
    case Arithmetic::f64:
      return 1e-13;
    case Arithmetic::f32:
      return 4e-6;
    case Arithmetic::tf32:
      return 4e-3;
    case Arithmetic::bf16:
      return 6e-2;
    default:
      return 8e-3;
  }
}

struct Case {
  const char* name;
  int64_t steps, batch, hidden;
  int directions = 1;
  bool packed = false;
  int groups_per_cta = 0, splits = 1, tiles = 1;  // 0: as planned
  bool bare = false;                              // no bias, no gates to save, no gradients from outside
  int teams_at_once = 0;                          // of a launch; 0: all
};

double difference(const Matrix& a, const Matrix& b) {
  double worst = 0;
  for (int64_t r = 0; r < a.rows; ++r)
    for (int64_t c = 0; c < a.columns; ++c) larger(worst, std::fabs(a.get(r, c) - b.get(r, c)));
  return worst;
}

// The plan of a case: the planner's own, or cut by hand.
std::string plan_of(const Case& c, const Problem& problem, Exchange exchange, Plan& plan) {
  if (c.groups_per_cta == 0) {
    Device device;
    if (std::string problem = current_device(device); !problem.empty()) return problem;
    Allowed allowed{false, false, false, false, false, false, false};
    *(exchange == Exchange::block     ? &allowed.block
      : exchange == Exchange::cluster ? &allowed.cluster
      : exchange == Exchange::packets ? &allowed.packets
      : exchange == Exchange::flags   ? &allowed.flags
                                      : &allowed.row) = true;
    return resident_plan(device, problem, allowed, plan);
  }
  const Traits traits = traits_of(problem.arithmetic, problem.variant);
  const auto ceil_div = [](int64_t a, int64_t b) { return int((a + b - 1) / b); };
  plan.regime = exchange == Exchange::block     ? Regime::block
                : exchange == Exchange::cluster ? Regime::cluster
                                                : Regime::grid;
  plan.exchange = exchange;
  plan.arithmetic = problem.arithmetic;
  plan.backward = problem.backward;
  plan.variant = problem.variant;
  Cut& cut = plan.cut;
  cut.groups = ceil_div(problem.hidden, kGroup);
  cut.groups_per_cta = exchange == Exchange::block ? cut.groups : std::min(c.groups_per_cta, cut.groups);
  cut.ctas = ceil_div(cut.groups, cut.groups_per_cta);
  cut.steps = cut.units() / traits.step;
  cut.splits = std::min(c.splits, cut.steps);
  cut.steps_per_warp = ceil_div(cut.steps, cut.splits);
  cut.splits = ceil_div(cut.steps, cut.steps_per_warp);
  cut.tiles = c.tiles;
  plan.row_teams = ceil_div(problem.batch, plan.rows());
  plan.teams = plan.row_teams * problem.directions;
  plan.teams_at_once = c.teams_at_once ? c.teams_at_once : plan.teams;
  plan.shared_bytes = layout_of(plan.arithmetic, exchange, plan.backward, cut, plan.variant).bytes;
  return {};
}

template <class AnyLoop>
std::string launch(const Plan& plan, const AnyLoop& loop) {
  // As another launch may have left it: packets of step 1, and a counter that is far ahead.
  std::vector<uint64_t> workspace(size_t(workspace_bytes(plan)) / 8, uint64_t(1) << 32 | 0x7fc00000u);
  std::string problem = run_loop(plan, loop, workspace.data(), nullptr);
  if (!problem.empty()) problem += " (" + emulator::last_error() + ")";
  return problem;
}

std::vector<Case> cases_of(Arithmetic arithmetic, Exchange exchange, bool small, bool variant = false) {
  const Traits traits = traits_of(arithmetic, variant);
  const int64_t rows = traits.rows;
  const bool block = exchange == Exchange::block;
  if (exchange == Exchange::row) {  // its CTA is of 32, 64, 96 or 128 units
    std::vector<Case> cases = {
        {"packed", 4, 4, 9, 1, true, 0},
        {"two directions, packed", 5, 3, 35, 2, true, 0},
        {"bare", 3, 3, 20, 2, false, 0, 1, 1, true},
    };
    if (small) return cases;
    cases.push_back({"one step", 1, 1, 1, 2, false, 0});
    cases.push_back({"all units", 3, 2, 32, 1, false, 0});
    cases.push_back({"more steps than places, packed", kTimes + 3, 3, 3, 2, true, 0});
    cases.push_back({"96 units", 3, 2, 70, 1, false, 0});
    cases.push_back({"128 units", 3, 2, 128, 1, false, 0});
    cases.push_back({"128 units, packed", 3, 2, 128, 2, true, 0});
    return cases;
  }
  std::vector<Case> cases = {
      // Two groups, one of them with few units; the last rows of the last tile are not there.
      {"splits and tiles, packed", 4, rows + 1, block ? 9 : 19, 1, true, 1, 2, 2},
      {"two row teams", 3, rows + 1, block ? 7 : 17, 1, false, 1, 1, 1},
      {"few rows", 7, 2, block ? 16 : 33, 1, false, 2, 1, 1},  // the last CTA has a group less
  };
  if (exchange == Exchange::packets || exchange == Exchange::flags)
    cases.push_back({"teams after teams, packed", 3, 2 * rows + 1, 20, 2, true, 1, 1, 1, false, 4});
  if (small) return cases;
  cases.push_back({"two directions, packed", 5, 2 * rows + 3, 35, 2, true, 2, 2, 2});
  cases.push_back({"bare", 3, 3, block ? 20 : 40, 2, false, 1, 3, 1, true});
  cases.push_back({"one step", 1, 1, block ? 1 : 17, 2, false, 1, 1, 1});
  cases.push_back({"as planned", 3, 5, block ? 33 : 50, 2, true});
  // In so many steps a variant's state may grow until bfloat16's last digit there is more than the bound.
  if (!variant || arithmetic != Arithmetic::bf16)
    cases.push_back({"more steps than places, packed", kTimes + 3, 3, block ? 3 : 17, 1, true, 1, 2, 1});
  // More fragments than a warp's registers hold; a block has no room for so many groups in 16-bit types.
  const int64_t beyond = traits.held * traits.step + 1;
  if (!block || beyond <= kMaxWarps * kGroup)
    cases.push_back({"beyond the registers", 3, rows + 2, beyond, 1, false, 6, 1, 2});
  if (!block && arithmetic == Arithmetic::f64) cases.push_back({"as planned, large", 2, 2, 130, 1, false, 0, 1, 1});
  return cases;
}

int index_of(const std::string& name, std::initializer_list<const char*> names) {
  int index = 0;
  for (const char* one : names) {
    if (name == one) return index;
    ++index;
  }
  std::printf("unknown: %s\n", name.c_str());
  std::exit(2);
}

// Every check of the arguments' kind: run_case(case, arithmetic, exchange, backward), check_steps(dtype, bound).
template <class RunCase, class CheckSteps>
int check_all(int count, char** arguments, bool variant, const RunCase& run_case, const CheckSteps& check_steps) {
  const auto argument = [&](int i, const char* otherwise) { return std::string(count > i ? arguments[i] : otherwise); };
  const auto arithmetic = Arithmetic(index_of(argument(1, ""), {"f32", "f64", "tf32", "bf16", "f16"}));
  const int exchange = index_of(argument(2, ""), {"block", "cluster", "packets", "flags", "row", "steps"});
  const int pass = index_of(argument(3, "both"), {"forward", "backward", "both"});
  emulator::options().order = emulator::Order(index_of(argument(4, "fifo"), {"fifo", "lifo", "random"}));
  emulator::options().seed = std::stoull(argument(5, "1"));
  emulator::options().livelock_rounds = 1000;
  int checked = 0, wrong = 0;
  const auto check = [&](bool good) { ++checked, wrong += !good; };
  if (exchange == 5)
    check(check_steps(dtype_of(arithmetic), bound_of(arithmetic)));
  else
    for (const Case& one : cases_of(arithmetic, Exchange(exchange), argument(6, "all") == "small", variant))
      for (int backward = 0; backward < 2; ++backward)
        if (pass == 2 || pass == backward) check(run_case(one, arithmetic, Exchange(exchange), backward));
  std::printf("%d checked, %d wrong\n", checked, wrong);
  return wrong > 0;
}

}  // namespace
