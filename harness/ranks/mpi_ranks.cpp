#include "harness/ranks/mpi_ranks.h"

#include "harness/case.h"

#ifdef MOECHECK_HAVE_MPI
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <limits>
#endif

namespace moecheck::harness::ranks {

#ifdef MOECHECK_HAVE_MPI

namespace {

void require(int code, const std::string& call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommunicatorError(call + ": " + std::string(text, static_cast<std::size_t>(length)));
}

// Rows of a column as one MPI type, so that counts are rows and stay small.
class RowType {
 public:
  explicit RowType(std::size_t bytes) {
    require(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &type_), "MPI_Type_contiguous");
    require(MPI_Type_commit(&type_), "MPI_Type_commit");
  }
  ~RowType() { MPI_Type_free(&type_); }
  RowType(const RowType&) = delete;
  RowType& operator=(const RowType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

// Counts and where they begin, as MPI takes them, until the transfer has ended.
struct Layout {
  explicit Layout(const std::vector<std::int64_t>& rows) {
    std::int64_t first = 0;
    for (const std::int64_t n : rows) {
      if (first + n > std::numeric_limits<int>::max())
        throw CommunicatorError("more than 2^31 rows in one transfer: MPI counts in 32 bits");
      counts.push_back(static_cast<int>(n));
      begins.push_back(static_cast<int>(first));
      first += n;
    }
  }
  std::vector<int> counts, begins;
};
struct Requests {
  Layout out, in;
  std::vector<MPI_Request> open;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm ranks, int rank, int size, int buffers)
      : Communicator(rank, size, buffers), ranks_(ranks) {}
  std::string_view kind() const override { return "mpi"; }

 protected:
  Buffer allocate(std::size_t bytes) override { return host_buffer(bytes); }
  std::vector<Header> exchange(const std::vector<Header>& mine) override {
    std::vector<Header> theirs(mine.size());
    constexpr int kBytes = sizeof(Header);
    require(MPI_Alltoall(mine.data(), kBytes, MPI_BYTE, theirs.data(), kBytes, MPI_BYTE, ranks_),
            "MPI_Alltoall");
    return theirs;
  }
  void start(Transfer& t) override {
    auto requests = std::make_shared<Requests>(Requests{Layout(t.out.counts), Layout(t.in.counts), {}});
    for (std::size_t c = 0; c < t.out.columns.size(); ++c) {
      const RowType row(t.out.columns[c].row_bytes);
      MPI_Request request = MPI_REQUEST_NULL;
      require(
          MPI_Ialltoallv(t.out.columns[c].rows.get(), requests->out.counts.data(),
                         requests->out.begins.data(), row.get(), t.in.columns[c].rows.get(),
                         requests->in.counts.data(), requests->in.begins.data(), row.get(), ranks_, &request),
          "MPI_Ialltoallv");
      requests->open.push_back(request);
    }
    t.native = requests;
  }
  void finish(Transfer& t) override {
    auto& open = static_cast<Requests*>(t.native.get())->open;
    require(MPI_Waitall(static_cast<int>(open.size()), open.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
  }

 private:
  MPI_Comm ranks_;
};

class Mpi final : public MpiRanks {
 public:
  explicit Mpi(int buffers) {
    int level = 0, rank = 0, size = 0;
    require(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
    require(MPI_Comm_dup(MPI_COMM_WORLD, &ranks_), "MPI_Comm_dup");
    require(MPI_Comm_set_errhandler(ranks_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    require(MPI_Comm_rank(ranks_, &rank), "MPI_Comm_rank");
    require(MPI_Comm_size(ranks_, &size), "MPI_Comm_size");
    communicator_ = std::make_unique<MpiCommunicator>(ranks_, rank, size, buffers);
  }
  ~Mpi() override {
    communicator_.reset();
    MPI_Comm_free(&ranks_);
    MPI_Finalize();
  }
  Communicator& communicator() override { return *communicator_; }
  std::string version() const override {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    const std::string all(text, static_cast<std::size_t>(length));
    return all.substr(0, all.find(','));
  }
  void abort(int exit_code) override { MPI_Abort(MPI_COMM_WORLD, exit_code); }

 private:
  MPI_Comm ranks_ = MPI_COMM_NULL;
  std::unique_ptr<MpiCommunicator> communicator_;
};

}  // namespace

bool has_mpi() { return true; }
std::unique_ptr<MpiRanks> make_mpi_ranks(int buffers) { return std::make_unique<Mpi>(buffers); }

#else

bool has_mpi() { return false; }
std::unique_ptr<MpiRanks> make_mpi_ranks(int) {
  throw UsageError(
      "--communicator mpi: this build has no MPI; install libopenmpi-dev and openmpi-bin (Debian, Ubuntu) "
      "and "
      "configure again with -D MOECHECK_MPI=ON, or use --communicator threads");
}

#endif

}  // namespace moecheck::harness::ranks
