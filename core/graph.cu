#include "core/graph.h"
#include "core/launch.h"

namespace dyt {
namespace {

bool recording_now = false;

struct Recording {
  Recording() { recording_now = true; }
  ~Recording() { recording_now = false; }
};

}  // namespace

void refuse_while_recording(const char* what) {
  require(!recording_now, what,
          " in the middle of work that is to be repeated by the device alone");
}

#if defined(DYT_EMULATED)

struct Graph::Recorded {
  std::vector<std::function<void()>> launches;
};

Graph Graph::record(Device device, const std::function<void()>& work) {
  require(device == Device::emulated, "device ", name_of(device), " has no graphs");
  const auto recorded = std::make_shared<Recorded>();
  const Recording now;
  struct Keep {
    explicit Keep(Recorded& r) { emulator::recording = &r.launches; }
    ~Keep() { emulator::recording = nullptr; }
  };
  const Keep keep(*recorded);
  work();
  Graph graph;
  graph.recorded_ = recorded;
  return graph;
}

void Graph::launch() const {
  require(recorded_ != nullptr, "a graph must be recorded before it is launched");
  for (const auto& launch : recorded_->launches) launch();
}

#else

struct Graph::Recorded {
  cudaGraphExec_t executable = nullptr;
  ~Recorded() {
    if (!executable) return;
    cudaStreamSynchronize(stream());  // it may still be running; no checks: this is a destructor
    cudaGraphExecDestroy(executable);
  }
};

namespace {

// The stream notes instead of doing; ends that also if `work` throws. Calls of other threads (that
// make batches) are none of its business: thread-local.
cudaGraph_t capture(const std::function<void()>& work) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
  try {
    const Recording now;
    work();
  } catch (...) {
    if (cudaStreamEndCapture(stream(), &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaGetLastError();  // not to be found by the next check
    throw;
  }
  check_cuda(cudaStreamEndCapture(stream(), &graph));
  return graph;
}

}  // namespace

Graph Graph::record(Device device, const std::function<void()>& work) {
  require(device == Device::cuda, "device ", name_of(device), " has no graphs");
  const cudaGraph_t noted = capture(work);
  const auto recorded = std::make_shared<Recorded>();
  const cudaError_t status = cudaGraphInstantiateWithFlags(&recorded->executable, noted, 0);
  cudaGraphDestroy(noted);
  check_cuda(status);
  check_cuda(cudaGraphUpload(recorded->executable, stream()));
  Graph graph;
  graph.recorded_ = recorded;
  return graph;
}

void Graph::launch() const {
  require(recorded_ != nullptr, "a graph must be recorded before it is launched");
  check_cuda(cudaGraphLaunch(recorded_->executable, stream()));
}

#endif

}  // namespace dyt
