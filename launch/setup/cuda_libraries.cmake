# Finds the libraries of the CUDA backend: cuBLASLt, cuDNN with the headers of cudnn-frontend, and
# NCCL, in this order: where -D says, in the CUDA toolkit, in system folders, and in the folders of
# Python wheels (nvidia-cudnn-cu13, nvidia-nccl-cu13, nvidia-cudnn-frontend). Sets
# longship_missing_cuda_libraries to what is not there, and else defines the target
# longship_cuda_libraries.

# Folders of wheels: of the venv that install.sh makes, and of the Pythons on the PATH.
file(GLOB longship_wheels ${CMAKE_BINARY_DIR}/tools/lib/python3*/site-packages)
foreach(python python3 python)
  execute_process(COMMAND ${python} -c "import site, sysconfig; print(';'.join([sysconfig.get_path('purelib'), *site.getsitepackages(), site.getusersitepackages()]))"
                  OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
                  RESULT_VARIABLE status)
  if(status EQUAL 0)
    list(APPEND longship_wheels ${folders})
  endif()
endforeach()
list(REMOVE_DUPLICATES longship_wheels)

set(longship_missing_cuda_libraries)

# longship_find_cuda_header(VARIABLE header wheel_folder description)
function(longship_find_cuda_header variable header wheel_folder description)
  set(wheel_includes ${longship_wheels})
  list(TRANSFORM wheel_includes APPEND /${wheel_folder})
  find_path(${variable} ${header} HINTS ${CUDAToolkit_INCLUDE_DIRS} PATHS ${wheel_includes})
  mark_as_advanced(${variable})
  if(NOT ${variable})
    set(longship_missing_cuda_libraries ${longship_missing_cuda_libraries} "${description}" PARENT_SCOPE)
  endif()
endfunction()

function(longship_find_cuda_library variable names wheel_folder description)
  set(wheel_libraries ${longship_wheels})
  list(TRANSFORM wheel_libraries APPEND /${wheel_folder})
  find_library(${variable} NAMES ${names} HINTS ${CUDAToolkit_LIBRARY_DIR} PATHS ${wheel_libraries})
  mark_as_advanced(${variable})
  if(NOT ${variable})
    set(longship_missing_cuda_libraries ${longship_missing_cuda_libraries} "${description}" PARENT_SCOPE)
  endif()
endfunction()

# An older cuDNN may lie where CMake looks first: only a header that is new enough counts, with the
# library that belongs to it.
set(longship_least_cudnn 9.18)
function(longship_check_cudnn accepted include_dir)
  foreach(header cudnn_version.h cudnn.h)
    if(EXISTS ${include_dir}/${header})
      file(STRINGS ${include_dir}/${header} lines REGEX "#define CUDNN_(MAJOR|MINOR) +[0-9]+")
      string(REGEX REPLACE ".*CUDNN_MAJOR +([0-9]+).*CUDNN_MINOR +([0-9]+).*" "\\1.\\2" version "${lines}")
      if(version VERSION_GREATER_EQUAL longship_least_cudnn)
        set(${accepted} TRUE PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
  set(${accepted} FALSE PARENT_SCOPE)
endfunction()

if(NOT CUDNN_INCLUDE_DIR OR NOT CUDNN_LIBRARY)
  set(wheel_folders ${longship_wheels})
  list(TRANSFORM wheel_folders APPEND /nvidia/cudnn)
  foreach(folder ${CUDAToolkit_INCLUDE_DIRS} /usr/local/include /usr/include
                 /usr/include/x86_64-linux-gnu ${wheel_folders})
    set(include_dir ${folder})
    if(EXISTS ${folder}/include/cudnn.h)
      set(include_dir ${folder}/include)
    endif()
    longship_check_cudnn(accepted ${include_dir})
    if(accepted AND EXISTS ${include_dir}/cudnn.h)
      get_filename_component(parent ${include_dir} DIRECTORY)
      find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 NO_DEFAULT_PATH
                   PATHS ${parent}/lib ${parent}/lib64 ${parent}/lib/x86_64-linux-gnu
                         ${CUDAToolkit_LIBRARY_DIR} /usr/lib/x86_64-linux-gnu)
      if(CUDNN_LIBRARY)
        set(CUDNN_INCLUDE_DIR ${include_dir} CACHE PATH "Headers of cuDNN")
        break()
      endif()
    endif()
  endforeach()
endif()
mark_as_advanced(CUDNN_INCLUDE_DIR CUDNN_LIBRARY)
if(NOT CUDNN_INCLUDE_DIR OR NOT CUDNN_LIBRARY)
  list(APPEND longship_missing_cuda_libraries
       "cuDNN ${longship_least_cudnn} or newer (PyPI: nvidia-cudnn-cu13)")
endif()
longship_find_cuda_header(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h include
                          "cudnn-frontend's headers (PyPI: nvidia-cudnn-frontend)")
longship_find_cuda_header(NCCL_INCLUDE_DIR nccl.h nvidia/nccl/include "NCCL's header")
longship_find_cuda_library(NCCL_LIBRARY "nccl;libnccl.so.2" nvidia/nccl/lib "NCCL")
if(NOT TARGET CUDA::cublasLt)
  list(APPEND longship_missing_cuda_libraries "cuBLASLt")
endif()
if(NOT TARGET CUDA::nvrtc)  # cudnn-frontend calls it
  list(APPEND longship_missing_cuda_libraries "NVRTC")
endif()

if(NOT longship_missing_cuda_libraries)
  add_library(longship_cuda_libraries INTERFACE)
  target_include_directories(longship_cuda_libraries SYSTEM INTERFACE
    ${CUDNN_INCLUDE_DIR} ${CUDNN_FRONTEND_INCLUDE_DIR} ${NCCL_INCLUDE_DIR})
  target_link_libraries(longship_cuda_libraries INTERFACE
    CUDA::cudart_static CUDA::cublasLt CUDA::nvrtc ${CUDNN_LIBRARY} ${NCCL_LIBRARY})
endif()
