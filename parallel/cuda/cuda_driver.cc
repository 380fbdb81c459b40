#include "parallel/cuda/cuda_driver.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "runtime/cuda/cuda_error.h"
#include "runtime/error.h"

namespace longship {
namespace {

template <class F>
F driver_function(const char* name) {
  constexpr unsigned kCuda12_6 = 12060;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  check_cuda(
      cudaGetDriverEntryPointByVersion(name, &function, kCuda12_6, cudaEnableDefault, &result),
      fmt::format("ask the driver for {}", name));
  if (result != cudaDriverEntryPointSuccess || function == nullptr)
    throw Error(ErrorCode::kConfig, {.what = fmt::format("the GPU's driver has no {}", name),
                                     .expected = "a driver for CUDA 12.6 or newer",
                                     .next = "install a newer NVIDIA driver"});
  return reinterpret_cast<F>(function);
}

struct Driver {
  decltype(&cuPointerGetAttribute) pointer_attribute =
      driver_function<decltype(&cuPointerGetAttribute)>("cuPointerGetAttribute");
  decltype(&cuStreamWriteValue32) write_value =
      driver_function<decltype(&cuStreamWriteValue32)>("cuStreamWriteValue32");
  decltype(&cuStreamWaitValue32) wait_value =
      driver_function<decltype(&cuStreamWaitValue32)>("cuStreamWaitValue32");
  decltype(&cuGetErrorString) error_string =
      driver_function<decltype(&cuGetErrorString)>("cuGetErrorString");
};

const Driver& driver() {
  static const Driver instance;
  return instance;
}

void check_driver(CUresult status, const char* operation) {
  if (status == CUDA_SUCCESS) return;
  const char* text = nullptr;
  if (driver().error_string(status, &text) != CUDA_SUCCESS || text == nullptr) text = "unknown";
  throw Error(ErrorCode::kInternal,
              {.what = fmt::format("the GPU's driver cannot {}", operation),
               .found = fmt::format("error {}: {}", static_cast<int>(status), text)});
}

CUdeviceptr device_pointer(const void* address) {
  return static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(address));
}

}  // namespace

Allocation allocation_of(const void* address) {
  CUdeviceptr begin = 0;
  size_t bytes = 0;
  unsigned long long id = 0;
  const CUdeviceptr pointer = device_pointer(address);
  const char* const operation = "find the allocation of a tensor";
  check_driver(driver().pointer_attribute(&begin, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, pointer),
               operation);
  check_driver(driver().pointer_attribute(&bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, pointer),
               operation);
  check_driver(driver().pointer_attribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pointer), operation);
  return {begin, static_cast<int64_t>(bytes), id};
}

void enqueue_write(uint32_t* word, uint32_t value, StreamHandle stream) {
  check_driver(
      driver().write_value(stream, device_pointer(word), value, CU_STREAM_WRITE_VALUE_DEFAULT),
      "enqueue the write of a word");
}

void enqueue_wait(uint32_t* word, uint32_t value, StreamHandle stream) {
  check_driver(driver().wait_value(stream, device_pointer(word), value, CU_STREAM_WAIT_VALUE_GEQ),
               "enqueue the wait for a word");
}

}  // namespace longship
