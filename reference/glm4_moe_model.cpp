// The whole GLM-4-MoE model from its operators (glm4_moe.h).
#include <cmath>
#include <random>
#include <stdexcept>

#include "reference/glm4_moe.h"

namespace moecheck::reference {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// [rows, columns] numbers of T.
struct Matrix {
  DType dtype;
  Shape shape;
  std::vector<std::byte> bytes;

  Matrix(DType type, std::int64_t rows, std::int64_t columns)
      : dtype(type), shape(rows, columns), bytes(at(rows * columns) * size_bytes(type)) {}
  ConstView view() const { return {bytes.data(), dtype, shape}; }
  double get(std::int64_t i) const { return load(dtype, bytes.data(), i); }
  void set(std::int64_t i, double v) { store(dtype, bytes.data(), i, v); }
  std::vector<double> numbers() const {
    std::vector<double> all(at(shape.numel()));
    for (std::int64_t i = 0; i < shape.numel(); ++i) all[at(i)] = get(i);
    return all;
  }
};

class Forward {
 public:
  Forward(const Glm4MoeConfig& config, const ForwardOptions& options)
      : c_(config), o_(options), random_(options.seed) {}

  Matrix embed(ConstView table, std::span<const std::int32_t> ids) const {
    Matrix x(o_.dtype, static_cast<std::int64_t>(ids.size()), c_.hidden);
    for (std::size_t t = 0; t < ids.size(); ++t)
      for (std::int64_t i = 0; i < c_.hidden; ++i)
        x.set(static_cast<std::int64_t>(t) * c_.hidden + i, table.at(ids[t], i));
    return x;
  }

  Matrix norm(std::int64_t layer, const char* name, const Matrix& x, ConstView weight) {
    return keep(layer, name, x, rms_norm(x.view(), weight, c_.rms_norm_eps), o_.dtype);
  }
  Matrix project(std::int64_t layer, const char* name, const Matrix& x, ConstView weight, DType dtype) {
    return keep(layer, name, x, linear(x.view(), weight), dtype);
  }

  void layer(std::int64_t i, const Glm4MoeLayerWeights& w, Matrix& x) {
    const Matrix a = norm(i, "input_norm", x, w.input_norm);
    add(x, keep(i, "attention", a, attention(c_, w.attention, a.view()), o_.dtype));
    const Matrix b = norm(i, "post_norm", x, w.post_norm);
    if (i < c_.first_dense) return add(x, keep(i, "mlp", b, gated_mlp(b.view(), w.dense), o_.dtype));
    const Matrix logits = project(i, "router", b, w.moe.router, DType::kF32);
    add(x, keep(i, "moe_block", b, glm4_moe_block(c_, w.moe, b.view(), logits.view()).out, o_.dtype));
  }

 private:
  // Rounds an operator's result to what is stored, with noise where asked for.
  Matrix keep(std::int64_t layer, const char* name, const Matrix& in, const std::vector<Bounded>& out,
              DType dtype) {
    Matrix m(dtype, in.shape[0], static_cast<std::int64_t>(out.size()) / in.shape[0]);
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double noise = o_.noise == 0 ? 0 : o_.noise * out[i].sigma * normal_(random_);
      m.set(static_cast<std::int64_t>(i), out[i].value + noise);
    }
    if (o_.trace) o_.trace({layer, name, in.numbers(), m.numbers()});
    return m;
  }
  static void add(Matrix& x, const Matrix& y) {
    for (std::int64_t i = 0; i < x.shape.numel(); ++i) x.set(i, x.get(i) + y.get(i));
  }

  const Glm4MoeConfig& c_;
  const ForwardOptions& o_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
};

void require_ids(const Glm4MoeConfig& c, std::span<const std::int32_t> ids) {
  if (static_cast<std::int64_t>(ids.size()) > c.max_positions)
    throw std::invalid_argument(std::to_string(ids.size()) + " tokens: max_position_embeddings is " +
                                std::to_string(c.max_positions));
  for (const std::int32_t id : ids)
    if (id < 0 || id >= c.vocab)
      throw std::invalid_argument("token " + std::to_string(id) + " is outside the vocabulary of " +
                                  std::to_string(c.vocab));
}

}  // namespace

ForwardResult glm4_moe_forward(const Glm4MoeConfig& c, const Glm4MoeWeights& w,
                               std::span<const std::int32_t> ids, const ForwardOptions& options) {
  require_ids(c, ids);
  if (ids.empty()) return {};
  Forward run(c, options);
  Matrix x = run.embed(w.embed, ids);
  for (std::int64_t i = 0; i < c.layers; ++i) run.layer(i, w.layers[at(i)], x);
  const Matrix h = run.norm(-1, "norm", x, w.norm);
  return {run.project(-1, "head", h, w.head, DType::kF32).numbers(), h.numbers()};
}

std::vector<double> glm4_moe_draft(const Glm4MoeConfig& c, const Glm4MoeWeights& w,
                                   std::span<const std::int32_t> ids, std::span<const double> hidden,
                                   const ForwardOptions& options) {
  require_ids(c, ids);
  if (!w.mtp) throw std::invalid_argument("the model has no MTP layer");
  if (ids.size() < 2) return {};
  Forward run(c, options);
  const MtpWeights& m = *w.mtp;
  const auto rows = static_cast<std::int64_t>(ids.size()) - 1;
  const Matrix e = run.norm(c.layers, "enorm", run.embed(m.embed, ids.subspan(1)), m.embed_norm);
  Matrix h(options.dtype, rows, c.hidden);
  for (std::int64_t i = 0; i < rows * c.hidden; ++i) h.set(i, hidden[at(i)]);
  h = run.norm(c.layers, "hnorm", h, m.hidden_norm);
  Matrix both(options.dtype, rows, 2 * c.hidden);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t i = 0; i < c.hidden; ++i) {
      both.set(t * 2 * c.hidden + i, e.get(t * c.hidden + i));
      both.set((t * 2 + 1) * c.hidden + i, h.get(t * c.hidden + i));
    }
  Matrix x = run.project(c.layers, "eh_proj", both, m.eh_proj, options.dtype);
  run.layer(c.layers, m.layer, x);
  return run.project(c.layers, "shared_head", run.norm(c.layers, "shared_head_norm", x, m.norm), m.head,
                     DType::kF32).numbers();
}

LogitSpread glm4_moe_spread(const Glm4MoeConfig& c, const Glm4MoeWeights& w,
                            std::span<const std::int32_t> ids, DType dtype, int samples, std::uint64_t seed) {
  ForwardOptions o;
  o.dtype = dtype;
  LogitSpread spread;
  spread.value = glm4_moe_forward(c, w, ids, o).logits;
  spread.sigma.assign(spread.value.size(), 0);
  o.noise = 1;
  for (int s = 0; s < samples; ++s) {
    o.seed = seed + static_cast<std::uint64_t>(s);
    const std::vector<double> noisy = glm4_moe_forward(c, w, ids, o).logits;
    for (std::size_t i = 0; i < noisy.size(); ++i)
      spread.sigma[i] += (noisy[i] - spread.value[i]) * (noisy[i] - spread.value[i]) / samples;
  }
  for (double& s : spread.sigma) s = std::sqrt(s);
  return spread;
}

}  // namespace moecheck::reference
