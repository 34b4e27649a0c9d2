// selftest NAME [ORDER [SEEDS [LATE]]]: runs one case under one order, ORDER 0 to 2 as in emulator::Order, with each of
// SEEDS seeds, and prints what came out of the worst.

#include <cstdlib>

#include "selftest.h"

int main(int count, char** arguments) {
  std::map<std::string, Case> cases;
  add_sound(cases);
  add_faulty(cases);
  add_launcher(cases);
  const auto argument = [&](int i, int otherwise) { return count > i ? std::atoi(arguments[i]) : otherwise; };
  const std::string name = count > 1 ? arguments[1] : "";
  if (!cases.contains(name)) {
    for (const auto& [known, run] : cases) std::printf("%s\n", known.c_str());
    return 2;
  }
  emulator::options().order = static_cast<emulator::Order>(argument(2, 0));
  emulator::options().late_stores = argument(4, 1) != 0;
  emulator::options().livelock_rounds = 1000;
  Outcome worst;
  std::string error;
  int bad = 0;
  const int seeds = argument(3, 1);
  for (int seed = 1; seed <= seeds; ++seed) {
    emulator::options().seed = static_cast<uint64_t>(seed);
    const Outcome outcome = cases.at(name)();
    bad += outcome.status != cudaSuccess || outcome.wrong > 0;
    if (outcome.status != cudaSuccess) error = emulator::last_error();
    if (outcome.status != cudaSuccess || outcome.wrong >= worst.wrong) worst = outcome;
  }
  std::printf("%s; %d of %d wrong; %d of %d schedules bad; %s\n", cudaGetErrorName(worst.status), worst.wrong,
              worst.checked, bad, seeds, error.c_str());
  return bad > 0;
}
