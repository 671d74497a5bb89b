#include "experiments/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "core/error.h"

namespace dyt {
namespace {

void require_values(std::span<const double> values, size_t at_least, const char* what) {
  require(values.size() >= at_least, what, " needs at least ", at_least,
          at_least == 1 ? " value" : " values", ", but there ", values.size() == 1 ? "is " : "are ",
          values.size());
  for (const double value : values) {
    require(std::isfinite(value), what, " needs finite values, but one is ", value);
  }
}

void require_pairs(std::span<const double> x, std::span<const double> y, size_t at_least,
                   const char* what) {
  require(x.size() == y.size(), what, " needs as many x as y, but there are ", x.size(), " and ",
          y.size());
  require_values(x, at_least, what);
  require_values(y, at_least, what);
}

// The sum of (x - mean x) * (y - mean y).
double co_moment(std::span<const double> x, std::span<const double> y) {
  const double mean_x = mean(x), mean_y = mean(y);
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - mean_x) * (y[i] - mean_y);
  return sum;
}

bool is_constant(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [&](double v) { return v == values[0]; });
}

// The regularised incomplete beta function I_x(a, b), by the continued fraction DLMF 8.17.22,
// evaluated with Lentz's method. It converges fast for x < (a + 1) / (a + b + 2); the other half
// follows from I_x(a, b) = 1 - I_{1-x}(b, a).
double incomplete_beta(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(1 - x, b, a);
  constexpr double tiny = 1e-300;
  const auto away_from_zero = [](double v) { return std::abs(v) < tiny ? tiny : v; };
  double value = 1, numerator = 1, denominator = 0;
  for (int j = 0; j < 1000; ++j) {
    const double m = j / 2;
    const double coefficient = j == 0 ? 1.0
                               : j % 2 == 0
                                   ? m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
                                   : -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    denominator = 1 / away_from_zero(1 + coefficient * denominator);
    numerator = away_from_zero(1 + coefficient / numerator);
    const double step = numerator * denominator;
    value *= step;
    if (j > 0 && std::abs(step - 1) < 1e-15) break;
  }
  const double log_front =
      std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x);
  return std::exp(log_front) * (value - 1) / a;
}

}  // namespace

double mean(std::span<const double> values) {
  require_values(values, 1, "a mean");
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / double(values.size());
}

double geometric_mean(std::span<const double> values) {
  require_values(values, 1, "a geometric mean");
  double sum = 0;
  for (const double value : values) {
    require(value > 0, "a geometric mean is of positive numbers, not ", value);
    sum += std::log(value);
  }
  return std::exp(sum / double(values.size()));
}

double standard_deviation(std::span<const double> values) {
  require_values(values, 2, "a standard deviation");
  return std::sqrt(co_moment(values, values) / double(values.size() - 1));
}

double lowest_mean_at(std::span<const double> settings, const ValuesAt& values) {
  require(!settings.empty(), "there is no setting to choose from");
  return *std::min_element(settings.begin(), settings.end(),
                           [&](double a, double b) { return mean(values(a)) < mean(values(b)); });
}

double highest_mean_at(std::span<const double> settings, const ValuesAt& values) {
  require(!settings.empty(), "there is no setting to choose from");
  return *std::max_element(settings.begin(), settings.end(),
                           [&](double a, double b) { return mean(values(a)) < mean(values(b)); });
}

double t_cdf(double x, double degrees) {
  require(degrees > 0, "Student's t needs more than 0 degrees of freedom, not ", degrees);
  const double both_tails = incomplete_beta(degrees / (degrees + x * x), degrees / 2, 0.5);
  return x > 0 ? 1 - both_tails / 2 : both_tails / 2;
}

double t_quantile(double probability, double degrees) {
  require(probability > 0 && probability < 1,
          "a quantile needs a probability between 0 and 1, not ", probability);
  if (probability == 0.5) return 0;
  if (probability < 0.5) return -t_quantile(1 - probability, degrees);
  double low = 0, high = 1;
  while (t_cdf(high, degrees) < probability && high < 1e15) high *= 2;
  for (int halving = 0; halving < 200 && low < high; ++halving) {
    const double middle = low + (high - low) / 2;
    if (middle == low || middle == high) break;
    (t_cdf(middle, degrees) < probability ? low : high) = middle;
  }
  return high;
}

MeanInterval mean_interval(std::span<const double> values, double confidence) {
  require(confidence > 0 && confidence < 1, "a confidence lies between 0 and 1; it is ",
          confidence);
  require_values(values, 2, "an interval of a mean");
  const size_t n = values.size();
  const double centre = mean(values), sd = standard_deviation(values);
  const double half = t_quantile((1 + confidence) / 2, double(n - 1)) * sd / std::sqrt(double(n));
  return {.n = n, .mean = centre, .sd = sd, .low = centre - half, .high = centre + half};
}

MeanInterval paired_difference_interval(std::span<const double> a, std::span<const double> b,
                                        double confidence) {
  require_pairs(a, b, 2, "a paired difference");
  std::vector<double> differences(a.size());
  for (size_t i = 0; i < a.size(); ++i) differences[i] = a[i] - b[i];
  return mean_interval(differences, confidence);
}

double pearson_correlation(std::span<const double> x, std::span<const double> y) {
  require_pairs(x, y, 2, "a correlation");
  require(!is_constant(x) && !is_constant(y),
          "a correlation needs values that vary, but one side is constant");
  const double r = co_moment(x, y) / std::sqrt(co_moment(x, x) * co_moment(y, y));
  return std::clamp(r, -1.0, 1.0);
}

LineFit fit_line(std::span<const double> x, std::span<const double> y) {
  require_pairs(x, y, 2, "a line fit");
  require(!is_constant(x), "a line fit needs x values that vary, but all are ", x[0]);
  require(!is_constant(y), "R2 of a line fit needs y values that vary, but all are ", y[0]);
  LineFit line;
  line.slope = co_moment(x, y) / co_moment(x, x);
  line.intercept = mean(y) - line.slope * mean(x);
  double residual = 0;
  for (size_t i = 0; i < x.size(); ++i) residual += std::pow(y[i] - line(x[i]), 2);
  line.r2 = 1 - residual / co_moment(y, y);
  return line;
}

// --- A tanh, by least squares --------------------------------------------------------------------
namespace {

using Parameters = std::array<double, 4>;  // a, b, c, d

double squared_error(const Parameters& p, std::span<const double> x, std::span<const double> y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double residual = y[i] - (p[0] * std::tanh(p[1] * x[i] + p[2]) + p[3]);
    sum += residual * residual;
  }
  return sum;
}

// Given the shape (b, c), the best a and d are those of a line through (tanh(b x + c), y).
Parameters best_for_shape(double b, double c, std::span<const double> x,
                          std::span<const double> y) {
  double st = 0, sy = 0, stt = 0, sty = 0;
  const double n = double(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double t = std::tanh(b * x[i] + c);
    st += t, sy += y[i], stt += t * t, sty += t * y[i];
  }
  const double spread = stt - st * st / n;
  const double a = spread > 0 ? (sty - st * sy / n) / spread : 0;
  return {a, b, c, (sy - a * st) / n};
}

// Solves m * step = rhs for a symmetric positive definite m, by Gaussian elimination; false when m
// is not numerically so.
bool solve(std::array<Parameters, 4> m, Parameters rhs, Parameters& step) {
  for (int k = 0; k < 4; ++k) {
    if (!(m[k][k] > 1e-300)) return false;
    for (int row = k + 1; row < 4; ++row) {
      const double factor = m[row][k] / m[k][k];
      for (int column = k; column < 4; ++column) m[row][column] -= factor * m[k][column];
      rhs[row] -= factor * rhs[k];
    }
  }
  for (int k = 3; k >= 0; --k) {
    double sum = rhs[k];
    for (int column = k + 1; column < 4; ++column) sum -= m[k][column] * step[column];
    step[k] = sum / m[k][k];
  }
  return std::all_of(step.begin(), step.end(), [](double v) { return std::isfinite(v); });
}

// Levenberg-Marquardt from `p`; returns the squared error reached.
double minimise(Parameters& p, std::span<const double> x, std::span<const double> y) {
  double error = squared_error(p, x, y), damping = 1e-3;
  for (int iteration = 0; iteration < 200; ++iteration) {
    std::array<Parameters, 4> normal{};  // J^T J
    Parameters gradient{};               // J^T (y - f)
    for (size_t i = 0; i < x.size(); ++i) {
      const double t = std::tanh(p[1] * x[i] + p[2]), slope = p[0] * (1 - t * t);
      const Parameters j = {t, slope * x[i], slope, 1};
      const double residual = y[i] - (p[0] * t + p[3]);
      for (int row = 0; row < 4; ++row) {
        gradient[row] += j[row] * residual;
        for (int column = 0; column < 4; ++column) normal[row][column] += j[row] * j[column];
      }
    }
    const double before = error;
    for (; damping < 1e12; damping *= 4) {
      auto damped = normal;
      for (int k = 0; k < 4; ++k) damped[k][k] += damping * normal[k][k];
      Parameters step{}, next;
      if (!solve(damped, gradient, step)) continue;
      for (int k = 0; k < 4; ++k) next[k] = p[k] + step[k];
      const double next_error = squared_error(next, x, y);
      if (next_error < error) {
        p = next, error = next_error, damping = std::max(damping / 9, 1e-12);
        break;
      }
    }
    if (before - error <= 1e-10 * before) break;  // no step helped, or hardly
  }
  return error;
}

}  // namespace

double TanhFit::operator()(double x) const { return a * std::tanh(b * x + c) + d; }

// The search runs on standardised data, u = (x - mean) / sd and likewise y, from a grid of shapes
// (steepness, centre) with the best a and d for each. The three best starts are refined on some of
// the points, and the best of these on all. The points are picked by the golden ratio: evenly
// spread, and out of step with any period in the data (such as the channels of a token).
TanhFit fit_tanh(std::span<const double> x, std::span<const double> y) {
  require_pairs(x, y, 4, "a tanh fit");
  require(!is_constant(x), "a tanh fit needs x values that vary, but all are ", x[0]);
  require(!is_constant(y), "R2 of a tanh fit needs y values that vary, but all are ", y[0]);
  const double mean_x = mean(x), mean_y = mean(y);
  const double sd_x = standard_deviation(x), sd_y = standard_deviation(y);
  std::vector<double> u(x.size()), v(y.size());
  for (size_t i = 0; i < x.size(); ++i)
    u[i] = (x[i] - mean_x) / sd_x, v[i] = (y[i] - mean_y) / sd_y;

  std::vector<double> some_u = u, some_v = v;
  if (const size_t some = 4096; u.size() > some) {
    for (size_t k = 0; k < some; ++k) {
      const double golden = double(k) * std::numbers::phi;
      const size_t i = size_t((golden - std::floor(golden)) * double(u.size()));
      some_u[k] = u[i], some_v[k] = v[i];
    }
    some_u.resize(some), some_v.resize(some);
  }

  std::vector<std::pair<double, Parameters>> starts;
  for (const double steepness : {0.03, 0.2, 0.7, 2.0, 6.0}) {
    for (const double centre : {-1.0, 0.0, 1.0}) {
      const Parameters p = best_for_shape(steepness, -steepness * centre, some_u, some_v);
      starts.emplace_back(squared_error(p, some_u, some_v), p);
    }
  }
  std::partial_sort(starts.begin(), starts.begin() + 3, starts.end());
  double error = std::numeric_limits<double>::infinity();
  Parameters best{};
  for (int start = 0; start < 3; ++start) {
    Parameters p = starts[start].second;
    const double reached = minimise(p, some_u, some_v);
    if (reached < error) error = reached, best = p;
  }
  if (u.size() > some_u.size()) error = minimise(best, u, v);
  if (best[1] < 0) best[0] = -best[0], best[1] = -best[1], best[2] = -best[2];
  TanhFit fit;
  fit.a = best[0] * sd_y, fit.b = best[1] / sd_x;
  fit.c = best[2] - best[1] * mean_x / sd_x, fit.d = best[3] * sd_y + mean_y;
  fit.r2 = 1 - error / double(x.size() - 1);  // v has variance 1, so sum of squares n - 1
  return fit;
}

}  // namespace dyt
