#include "experiments/plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/error.h"

namespace dyt {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Plot two_lines() {
  Plot plot{.name = "accuracy",
            .title = "Accuracy",
            .x_label = "step",
            .y_label = "validation accuracy (%)"};
  plot.series = {{.name = "LN", .x = {0, 1, 2}, .y = {10, 50, 80}},
                 {.name = "DyT", .x = {0, 1, 2}, .y = {10, 55, 81}, .style = SeriesStyle::dashed}};
  return plot;
}

// The SVG, or a skipped test where there is no gnuplot.
#define SVG_OR_SKIP(variable, plot)                                \
  const std::optional<std::string> variable##_ = render_svg(plot); \
  if (!variable##_) GTEST_SKIP() << no_gnuplot_message;            \
  const std::string& variable = *variable##_

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Plot, IsAnSvgThatScales) {
  SVG_OR_SKIP(svg, two_lines());
  EXPECT_NE(svg.find("viewBox=\"0 0 540 "), svg.npos);
  const size_t begin = svg.find("<svg"), end = svg.find('>', begin);
  EXPECT_EQ(svg.substr(begin, end - begin).find("width="), svg.npos);
  for (const char* text : {"Accuracy", "step", "validation accuracy (%)", "LN", "DyT"}) {
    EXPECT_NE(svg.find(text), svg.npos) << text;
  }
  EXPECT_EQ(svg.find("<script"), svg.npos);
  EXPECT_EQ(svg.find("<title>"), svg.npos);
  EXPECT_EQ(render_svg(two_lines()), svg);  // the same bytes every time
}

TEST(Plot, SpecialCharactersComeOutLiterally) {
  Plot plot = two_lines();
  plot.title = R"(x_1^2 @{a} \n %d $HOME `date`)";
  plot.series[0].name = R"('q' "d")";
  plot.x_label = "a < b & c > d";
  plot.y_label = "first\nsecond ± °";
  SVG_OR_SKIP(svg, plot);
  EXPECT_NE(svg.find(R"(x_1^2 @{a} \n %d $HOME `date`)"), svg.npos);
  EXPECT_NE(svg.find(R"('q' "d")"), svg.npos);
  EXPECT_NE(svg.find("a &lt; b &amp; c > d"), svg.npos);
  EXPECT_NE(svg.find("first second ± °"), svg.npos);
}

TEST(Plot, ALargeCloudIsThinnedAndSaysSo) {
  Plot plot{.name = "cloud", .title = "Cloud", .x_label = "x", .y_label = "y"};
  Series cloud{.name = "tokens", .style = SeriesStyle::points};
  for (int i = 0; i < 20000; ++i) {
    cloud.x.push_back(i % 141), cloud.y.push_back(i == 777 ? 1e3 : std::sin(i));
  }
  plot.series = {cloud};
  SVG_OR_SKIP(svg, plot);
  EXPECT_LT(svg.size(), 300'000u);
  EXPECT_NE(svg.find("tokens (1200 of 20000)"), svg.npos);
  EXPECT_EQ(count(svg, "<use xlink:href='#gpPt6'"), max_points_of_series + 1);  // and the legend's
  EXPECT_EQ(render_svg(plot), svg);
}

TEST(Plot, ALongLineIsThinnedButKeepsItsPeaks) {
  Plot plot = two_lines();
  plot.series.resize(1);
  plot.series[0].x.clear(), plot.series[0].y.clear();
  for (int i = 0; i < 200000; ++i) {
    plot.series[0].x.push_back(i);
    plot.series[0].y.push_back(i == 123457 ? 100 : 0.5);
  }
  plot.y_range = Range{0, 100};
  SVG_OR_SKIP(svg, plot);
  EXPECT_LT(svg.size(), 100'000u);
  Plot flat = plot;
  flat.series[0].y[123457] = 0.5;
  EXPECT_NE(render_svg(flat), svg);
}

TEST(Plot, DrawsWhatIsFiniteAndNamesWhatIsNot) {
  Plot plot = two_lines();
  plot.series[0].y[1] = nan;
  plot.series[1].y = {nan, std::numeric_limits<double>::infinity(), -nan};
  plot.vertical = {{1, "end of warm-up"}};
  plot.horizontal = {{82.3, "the paper's LN"}};
  SVG_OR_SKIP(svg, plot);
  EXPECT_NE(svg.find("DyT (no finite value)"), svg.npos);
  EXPECT_NE(svg.find("end of warm-up"), svg.npos);
  EXPECT_NE(svg.find("the paper's LN"), svg.npos);
  EXPECT_TRUE(render_svg(Plot{.name = "empty"}).has_value());
}

// There is as much room for the legend as for one of names as long as that.
TEST(Plot, HasRoomForALegendThatSaysWhatIsNotFinite) {
  const auto height = [](const std::string& svg) {
    const size_t at = svg.find("viewBox=\"0 0 ");
    return svg.substr(at, svg.find('"', at + 9) - at);
  };
  Plot plot = two_lines(), as_long = plot;
  plot.series[1].y = {nan, nan, nan};
  as_long.series[1].name += " (no finite value)";
  SVG_OR_SKIP(svg, plot);
  EXPECT_EQ(height(svg), height(*render_svg(as_long)));
  EXPECT_NE(height(svg), height(*render_svg(two_lines())));
}

TEST(Plot, LogAxesBandsErrorBarsAndNamedTics) {
  Plot plot = two_lines();
  plot.log_x = plot.log_y = true;
  plot.x_tics = {{6}, {12, "twelve"}};
  plot.series[0].x = plot.series[1].x = {6, 12, 0};  // a log axis leaves the 0 out
  plot.series[0].low = {9, 40, 70}, plot.series[0].high = {11, 60, 90};
  plot.series[1].low = {9, 40, 70}, plot.series[1].high = {11, 60, 90};
  plot.series[1].style = SeriesStyle::points;
  SVG_OR_SKIP(svg, plot);
  EXPECT_NE(svg.find("twelve"), svg.npos);
  EXPECT_NE(svg.find(">20<"), svg.npos);  // less than a decade or so: more labels than 10
}

// Where gnuplot puts a line of text: y grows downwards.
double y_of(const std::string& svg, const std::string& text) {
  const size_t at = svg.rfind("translate(", svg.find(">" + text));
  EXPECT_NE(at, svg.npos) << text;
  return at == svg.npos ? nan : std::stod(svg.substr(svg.find(',', at) + 1));
}

// Six labels have room for words of 9 characters side by side.
TEST(Plot, LongNamesOfTicsDoNotRunIntoEachOther) {
  Plot plot = two_lines();
  for (auto& series : plot.series) series.x = {0, 1, 5};
  plot.x_tics = {{0, "first"},  {1, "second"}, {2, "third"},
                 {3, "fourth"}, {4, "fifth"},  {5, "six"}};
  SVG_OR_SKIP(short_names, plot);
  EXPECT_EQ(y_of(short_names, "fourth"), y_of(short_names, "fifth"));
  plot.x_tics[4].label = "sigmaReparam, lr 0.002";
  SVG_OR_SKIP(long_names, plot);
  EXPECT_EQ(y_of(long_names, "first"), y_of(long_names, "sigmaReparam,"));
  EXPECT_EQ(y_of(long_names, "fourth"), y_of(long_names, "six"));
  EXPECT_GT(y_of(long_names, "fourth"), y_of(long_names, "lr 0.002"));
}

Plot small_heat_map() {
  Plot plot{.name = "map", .title = "Map", .x_label = "learning rate", .y_label = "alpha0"};
  plot.heat_map = HeatMap{.columns = {"1e-3", "4e-3", "1e-2"},
                          .rows = {"0.5", "LN"},
                          .values = {{81.2, 70, nan}, {80, 65.5, 10}},
                          .decimals = 1};
  return plot;
}

TEST(Plot, HeatMapNamesEveryCell) {
  SVG_OR_SKIP(svg, small_heat_map());
  for (const char* text : {">81.2<", ">70.0<", "failed", ">65.5<", ">10.0<", "learning rate",
                           "alpha0", "4e-3", "LN"}) {
    EXPECT_NE(svg.find(text), svg.npos) << text;
  }
  Plot ragged = small_heat_map();
  ragged.heat_map->values[1].pop_back();
  EXPECT_THROW(render_svg(ragged), Error);
  Plot all_failed = small_heat_map();
  all_failed.heat_map->values = {{nan, nan, nan}, {nan, nan, nan}};
  EXPECT_TRUE(render_svg(all_failed).has_value());
}

TEST(Plot, HeatMapInCharacters) {
  EXPECT_EQ(render_text(small_heat_map()),
            "Map\n"
            "alpha0\n"
            " LN |   80.0   65.5   10.0\n"
            "0.5 |   81.2   70.0 failed\n"
            "        1e-3   4e-3   1e-2\n"
            "     learning rate\n");
}

TEST(Plot, RefusesMalformedPlots) {
  Plot plot = two_lines();
  plot.name = "../accuracy";
  EXPECT_THROW(render_svg(plot), Error);
  plot = two_lines();
  plot.series[0].y.pop_back();
  EXPECT_THROW(render_svg(plot), Error);
  plot = two_lines();
  plot.series[0].low = {1, 2, 3};
  EXPECT_THROW(render_svg(plot), Error);
  plot = two_lines();
  plot.y_range = Range{1, 1};
  EXPECT_THROW(render_svg(plot), Error);
  EXPECT_THROW(render_text(plot, 3, 2), Error);
}

TEST(Plot, WithoutGnuplotThereIsNone) {
  const char* path = std::getenv("PATH");
  const std::string before = path ? path : "";
  setenv("PATH", "/nonexistent", 1);
  EXPECT_FALSE(render_svg(two_lines()).has_value());
  setenv("PATH", before.c_str(), 1);
}

TEST(Plot, InCharacters) {
  EXPECT_EQ(render_text(two_lines(), 24, 6),
            "Accuracy\n"
            "validation accuracy (%)\n"
            " 81 |                    oooo\n"
            "    |              ooooooo*\n"
            "    |         ooooo**\n"
            "    |      oooo*\n"
            "    |  oooo*\n"
            " 10 |oo*\n"
            "    +------------------------\n"
            "     0         step         2\n"
            "     * LN\n"
            "     o DyT\n");
  Plot nothing{.name = "x"};
  nothing.series = {{.name = "diverged", .x = {1, 2}, .y = {nan, nan}}};
  EXPECT_NE(render_text(nothing).find("diverged"), std::string::npos);
}

}  // namespace
}  // namespace dyt
