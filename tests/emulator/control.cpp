// For Python, through ctypes: the options that a test changes between two launches, and what came out.

#include <cstring>

#include "emulator.h"

extern "C" {

void emulator_schedule(int order, unsigned long long seed, int late_stores) {
  emulator::options().order = static_cast<emulator::Order>(order);
  emulator::options().seed = seed;
  emulator::options().late_stores = late_stores != 0;
}

void emulator_limits(unsigned livelock_rounds, unsigned long long max_switches) {
  emulator::options().livelock_rounds = livelock_rounds;
  emulator::options().max_switches = max_switches;
}

// sms: 0 leaves the device all of its SMs.
void emulator_device(int compute_capability, unsigned sms) {
  emulator::options().device = emulator::device_model(compute_capability);
  if (sms) emulator::options().device.sm_count = sms;
}

const char* emulator_last_error() { return emulator::last_error().c_str(); }

void emulator_stats(unsigned long long* five) { std::memcpy(five, &emulator::stats(), sizeof(emulator::Stats)); }

}  // extern "C"
