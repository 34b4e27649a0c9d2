// Memory for stacks and for shared memory, straight from the operating system and kept for the next launch.
#pragma once

#include <cstddef>

namespace emulator {

char* take_pages(size_t bytes);
void give_pages(char* pages, size_t bytes);

}  // namespace emulator
