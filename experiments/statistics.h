// The statistics an experiment's verdict stands on: intervals of means and of paired differences,
// correlation, and least-squares fits of a line and of a tanh.
//
// Every function throws Error on input it has no answer for: too few values, a value that is not
// finite (a run that diverged is counted by its experiment, not averaged), a constant where a
// spread is needed.
#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace dyt {

double mean(std::span<const double> values);                // n >= 1
double geometric_mean(std::span<const double> values);      // of positive values, n >= 1
double standard_deviation(std::span<const double> values);  // of a sample: n - 1; n >= 2

// Of these settings (learning rates, say; one or more) the one at which the values have the lowest
// mean, or the highest; of equals the first.
using ValuesAt = std::function<std::vector<double>(double setting)>;
double lowest_mean_at(std::span<const double> settings, const ValuesAt& values);
double highest_mean_at(std::span<const double> settings, const ValuesAt& values);

// Student's t distribution with `degrees` > 0 degrees of freedom: P(t < x), and its inverse for
// 0 < probability < 1.
double t_cdf(double x, double degrees);
double t_quantile(double probability, double degrees);

// A mean and the interval that covers the true one in `confidence` of all repetitions, if the
// values are independent and about normally distributed: mean +- t * sd / sqrt(n).
struct MeanInterval {
  size_t n = 0;
  double mean = 0, sd = 0, low = 0, high = 0;
  double half_width() const { return (high - low) / 2; }
};
MeanInterval mean_interval(std::span<const double> values, double confidence = 0.95);  // n >= 2

// The interval of mean(a - b), where a[i] and b[i] share all that is not compared (seed, data
// order): what they share cancels, so it is tighter than the two intervals suggest.
MeanInterval paired_difference_interval(std::span<const double> a, std::span<const double> b,
                                        double confidence = 0.95);

double pearson_correlation(std::span<const double> x, std::span<const double> y);  // n >= 2

// R2 = 1 - (sum of squared residuals) / (sum of squares about the mean of y): the share of the
// variance of y that a fit explains.
struct LineFit {
  double slope = 0, intercept = 0, r2 = 0;
  double operator()(double x) const { return slope * x + intercept; }
};
LineFit fit_line(std::span<const double> x, std::span<const double> y);  // n >= 2

// y = a * tanh(b * x + c) + d with b >= 0. A line is the limit b -> 0, a * b fixed, so this never
// fits worse than the line by more than the search leaves on the table.
struct TanhFit {
  double a = 0, b = 0, c = 0, d = 0, r2 = 0;
  double operator()(double x) const;
};
TanhFit fit_tanh(std::span<const double> x, std::span<const double> y);  // n >= 4

}  // namespace dyt
