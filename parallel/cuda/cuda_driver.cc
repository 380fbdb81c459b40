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
  decltype(&cuStreamBatchMemOp) batch_operations =
      driver_function<decltype(&cuStreamBatchMemOp)>("cuStreamBatchMemOp");
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

template <class T>
T attribute_of(const void* address, CUpointer_attribute attribute) {
  T value = 0;
  check_driver(driver().pointer_attribute(&value, attribute, device_pointer(address)),
               "find the allocation of a tensor");
  return value;
}

}  // namespace

Allocation allocation_of(const void* address) {
  const auto begin = attribute_of<CUdeviceptr>(address, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR);
  const auto bytes = attribute_of<size_t>(address, CU_POINTER_ATTRIBUTE_RANGE_SIZE);
  return {begin, static_cast<int64_t>(bytes), allocation_id_of(address)};
}

uint64_t allocation_id_of(const void* address) {
  return attribute_of<unsigned long long>(address, CU_POINTER_ATTRIBUTE_BUFFER_ID);
}

void WordOperations::enqueue(StreamHandle stream) {
  constexpr size_t kMostAtOnce = 128;
  std::vector<CUstreamBatchMemOpParams> batch;
  for (size_t i = 0; i < operations_.size(); ++i) {
    const Operation& operation = operations_[i];
    CUstreamBatchMemOpParams params = {};
    if (operation.is_write) {
      params.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
      params.writeValue.address = device_pointer(operation.word);
      params.writeValue.value = operation.value;
      params.writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT;
    } else {
      params.waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
      params.waitValue.address = device_pointer(operation.word);
      params.waitValue.value = operation.value;
      params.waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
    }
    batch.push_back(params);
    if (batch.size() < kMostAtOnce && i + 1 < operations_.size()) continue;
    check_driver(
        driver().batch_operations(stream, static_cast<unsigned>(batch.size()), batch.data(), 0),
        "enqueue stream memory operations");
    batch.clear();
  }
  operations_.clear();
}

}  // namespace longship
