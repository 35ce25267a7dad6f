#include <algorithm>
#include <cmath>
#include <numeric>

#include "listed_neighborhood.h"
#include "parallel.h"
#include "rounded_sample.h"

namespace dynfocus::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A distance computed from differences is no farther from the distance than by this factor.
constexpr float kRoom = 1.0f + 0x1p-16f;

// Pairs of points are screened in squares of so many rows and columns, by tasks of so many rows.
constexpr int64_t kSquare = 1024, kBlock = 64;

// To look at a pair's bounds takes as long as so many multiplications.
constexpr double kScanned = 16;

// The rows that tell beforehand how much is left to compute: some from a few places of the sample.
constexpr int64_t kProbed = 8, kProbes = 2;

// From how many points on it pays, and how few of a row must be left: one in so many. Measured on points of 40 to 3,584 channels; to read
// those of a sample that no cache holds costs several times as much.
struct Worth {
  int64_t fewest, one_of;
};
constexpr int64_t kCached = 1 << 23;  // floats
Worth worth(int64_t count, int64_t channels) { return count * channels <= kCached ? Worth{512, 12} : Worth{4096, 64}; }

// Nor does it pay for more neighbours than one in so many points: too many distances are left.
constexpr int64_t kPointsANeighbor = 64;

// A sample's bytes are kept, up to 64 MiB.
constexpr int64_t kMostBytes = 1 << 26;

// Distances of points rounded to bytes bound all distances. Only those that may be among a point's nearest, or the largest of all, are
// computed, and from differences: no bit depends on what else is, or on who screens what.
class ScreenedNeighborhood final : public ListedNeighborhood {
 public:
  ScreenedNeighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch)
      : ListedNeighborhood(distances, count, k, std::max(k, kShortest)),
        rounded_(distances, count, scratch.bytes),
        stride_(padded(std::min(count, kSquare))),
        products_(reinterpret_cast<int32_t*>(scratch.squared.reserve(std::max(stride_ * stride_, kProbes * kProbed * padded(count))))),
        reaches_(padded(count), -kInfinity),
        no_reaches_(padded(count), -kInfinity) {
    std::fill_n(reaches_.begin(), count, kInfinity);
  }

  bool pays() {
    if (!rounded_.is_usable()) return false;
    const int64_t columns = padded(count_);
    const int64_t longest = rounded_.longest();
    std::vector<RoundedRow> rows;
    for (int64_t probe = 0; probe < kProbes; ++probe) {
      const int64_t first = (2 * probe + 1) * count_ / (2 * kProbes) / kProbed * kProbed;
      rounded_.multiply(first, kProbed, 0, count_, products_ + probe * kProbed * columns, columns);
      for (int64_t i = first; i < first + kProbed; ++i) {
        const int32_t* products = products_ + static_cast<int64_t>(rows.size()) * columns;
        rows.push_back({rounded_.point(i), reach_of(i, products, 0, count_), 0.0f});
        const int64_t opposite = std::min_element(products, products + count_) - products;
        for (const int64_t far : {opposite, longest}) {
          farthest_ = std::max(farthest_, std::sqrt(distances_.from_differences(i, far)) / kRoom);
        }
      }
    }
    std::vector<int32_t> places(columns);
    int64_t left = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      const RoundedRow row{rows[r].point, rows[r].reach, farthest_};
      const int64_t found = kernels_.notable(products_ + r * columns, row, rounded_.points(0, no_reaches_.data()), columns, places.data());
      left += std::lower_bound(places.begin(), places.begin() + found, count_) - places.begin();
    }
    return left * worth(count_, distances_.channels()).one_of <= static_cast<int64_t>(rows.size()) * count_;
  }

  void find_all() {
    for (int64_t i = 0; i < count_; ++i) lists_.add(i, 0.0f, static_cast<int32_t>(i));
    // Those on the diagonal first: they leave each point with near neighbours, and so with few to add later.
    for (int64_t i = 0; i < count_; i += kSquare) find_within(i, i);
    for (int64_t i = 0; i < count_; i += kSquare) {
      for (int64_t j = i + kSquare; j < count_; j += kSquare) find_within(i, j);
    }
  }

  Nearest nearest_before(const std::vector<int32_t>& order) const override {
    Nearest nearest = ListedNeighborhood::nearest_before(order);
    for (size_t place = 1; place < order.size(); ++place) {
      const int32_t i = order[place];
      const int32_t* const neighbors = lists_.points(i);
      const bool is_listed = std::find(neighbors, neighbors + lists_.length(), nearest.point[i]) != neighbors + lists_.length();
      if (!is_listed) nearest.squared[i] = distances_.from_differences(i, nearest.point[i]);  // it was found by products
    }
    return nearest;
  }

 private:
  struct Pairs {
    std::vector<Pair> points;
    std::vector<float> squared;
  };

  // Calls body(first, last) for each kBlock of [0, count).
  template <class Body>
  static void for_each_block(int64_t count, double work, const Body& body) {
    for_each_task((count + kBlock - 1) / kBlock, work, [] { return 0; }, [&](int64_t block, int) {
      body(block * kBlock, std::min(count, (block + 1) * kBlock));
    });
  }

  // As many of the points [j, j + columns) as a list is long are no farther from point i than this.
  float reach_of(int64_t i, const int32_t* products, int64_t j, int64_t columns) const {
    return kernels_.kth_upper_bound(products, rounded_.point(i), rounded_.points(j, nullptr), padded(columns), lists_.length()) * kRoom;
  }

  // Adds the pairs of points [i, ...) and [j, ...), up to kSquare of each, to the lists of both.
  void find_within(int64_t i, int64_t j) {
    const int64_t rows = std::min(kSquare, count_ - i), columns = std::min(kSquare, count_ - j);
    const double work = static_cast<double>(rows * columns), channels = static_cast<double>(distances_.channels());
    for_each_block(rows, work * channels / 8, [&](int64_t first, int64_t last) { multiply(i, j, columns, first, last); });
    if (i == j && rows >= lists_.length()) {
      for_each_block(rows, kScanned * work, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) reaches_[i + r] = reach_of(i + r, products_ + r * stride_, j, columns);
      });
    }
    std::vector<Pairs> pairs((rows + kBlock - 1) / kBlock);
    for_each_block(rows, (kScanned + channels / 16) * work, [&](int64_t first, int64_t last) {
      pairs[first / kBlock] = find_pairs(i, j, columns, first, last);
    });
    for (const auto& [points, squared] : pairs) {
      for (size_t p = 0; p < points.size(); ++p) {
        lists_.add(points[p].i, squared[p], points[p].j);
        lists_.add(points[p].j, squared[p], points[p].i);
        largest_ = std::max(largest_, squared[p]);
      }
    }
    farthest_ = std::max(farthest_, std::sqrt(largest_) / kRoom);
    for (const int64_t first : {i, j}) {
      for (int64_t p = first; p < std::min(count_, first + kSquare); ++p) {
        reaches_[p] = std::min(reaches_[p], std::sqrt(*lists_.farthest(p)) * kRoom);
      }
    }
  }

  // The products of rows [first, last); on the diagonal those from their first column on, and in their mirror image.
  void multiply(int64_t i, int64_t j, int64_t columns, int64_t first, int64_t last) const {
    const int64_t left = i == j ? first : 0, right = left + kBlock;
    int32_t* products = products_ + first * stride_;
    rounded_.multiply(i + first, last - first, j + left, columns - left, products + left, stride_);
    if (i != j || right >= columns) return;
    row_kernels().transpose(reinterpret_cast<float*>(products + right), stride_, kBlock, padded(columns - right),
                            reinterpret_cast<float*>(products_ + right * stride_ + first), stride_);
  }

  // Of rows [first, last); on the diagonal those above it.
  Pairs find_pairs(int64_t i, int64_t j, int64_t columns, int64_t first, int64_t last) const {
    Pairs pairs;
    pairs.points.reserve(kBlock * lists_.length());
    std::vector<int32_t> places(padded(columns));
    for (int64_t r = first; r < last; ++r) {
      const int64_t left = i == j ? std::min((r + 1) / kPanel * kPanel, columns) : 0;
      const RoundedRow row{rounded_.point(i + r), reaches_[i + r], farthest_};
      const RoundedPoints others = rounded_.points(j + left, reaches_.data() + j + left);
      const int64_t found = kernels_.notable(products_ + r * stride_ + left, row, others, padded(columns - left), places.data());
      for (int64_t at = 0; at < found; ++at) {
        const int64_t c = left + places[at];
        if (c < columns && (i != j || c > r)) pairs.points.push_back({static_cast<int32_t>(i + r), static_cast<int32_t>(j + c)});
      }
    }
    pairs.squared.resize(pairs.points.size());
    distances_.from_differences(pairs.points.data(), pairs.points.size(), pairs.squared.data());
    return pairs;
  }

  const RoundedSample rounded_;
  const int64_t stride_;
  int32_t* const products_;     // [stride][stride], of the last square
  const ByteKernels& kernels_ = byte_kernels();
  std::vector<float> reaches_;  // nothing farther than this is among a point's nearest; of padding, nothing is
  const std::vector<float> no_reaches_;
  float farthest_ = 0.0f;       // the largest distance is no less
};

}  // namespace

std::unique_ptr<Neighborhood> make_screened_neighborhood(const SquaredDistances& distances, int64_t count, int64_t k, Scratch& scratch) {
  if (byte_kernels().round == nullptr || !distances.is_screenable()) return nullptr;
  const Worth least = worth(count, distances.channels());
  if (count < least.fewest || count * distances.channels() > kMostBytes || k > kPanel) return nullptr;
  if (k * kPointsANeighbor > count) return nullptr;
  auto screened = std::make_unique<ScreenedNeighborhood>(distances, count, k, scratch);
  if (!screened->pays()) return nullptr;
  screened->find_all();
  return screened;
}

}  // namespace dynfocus::cpu
