#include "experiments/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Report sample() {
  Report report{.number = 3, .title = "ViT: LN <vs> \"DyT\"", .source = "DyT, Table 1"};
  report.claim = "DyT & LN do equally well.";
  report.paper = "82.3 % (LN), 82.5 % (DyT)", report.ours = "84.9 ± 0.3 %";
  report.verdict = {Outcome::not_reproduced, "by the rule <1 point", "it was 2 points"};
  report.curves = {{"LN", 0, 0, "accuracy", 10},  {"LN", 1, 0, "accuracy", 12},
                   {"LN", 0, 5, "accuracy", 80},  {"LN", 1, 5, "accuracy", nan},
                   {"Dy,T", 0, 0, "accuracy", 9}, {"LN", 0, 0, "loss", 2.3}};
  report.plots = {plot_of_curves(report.curves, "accuracy")};
  report.plots[0].title = "Accuracy <&>", report.plots[0].caption = "A 'caption'.";
  report.tables = {
      {"Results", {"norm", "ours"}, {{"LN", "84.91 ± 0.31 %"}, {"DyT", "<b>"}}, "A note."}};
  report.notes = {"One run only."};
  report.settings = {{"seeds", "3"}, {"data", "synthetic"}};
  report.results = R"({"difference": -2.0})";
  stamp(report, "cpu", 12.34);
  return report;
}

// A folder that is empty at first and gone at last.
struct Folder {
  fs::path path =
      fs::path(testing::TempDir()) /
      (std::string("dyt_report_") + testing::UnitTest::GetInstance()->current_test_info()->name());
  Folder() { fs::remove_all(path); }
  ~Folder() { fs::remove_all(path); }
};

std::string read(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

void expect_self_contained(const std::string& html) {
  EXPECT_TRUE(contains(html, "<!DOCTYPE html>"));
  EXPECT_TRUE(contains(html, "width=device-width"));
  EXPECT_TRUE(contains(html, "prefers-color-scheme: dark"));
  for (const char* outside : {"<script", "<link", "src=", "@import", "href=\"http", "url(http"}) {
    EXPECT_FALSE(contains(html, outside)) << outside;
  }
}

TEST(Report, WritesItsFiles) {
  const Folder out;
  const fs::path folder = write_report(sample(), out.path);
  EXPECT_EQ(folder, out.path / "03");
  const std::string html = read(folder / "report.html");
  expect_self_contained(html);
  for (const char* text :
       {"ViT: LN &lt;vs&gt; &quot;DyT&quot;", "DyT, Table 1", "DyT &amp; LN do equally well.",
        "NOT REPRODUCED", "by the rule &lt;1 point", "it was 2 points", "82.3&nbsp;% (LN)",
        "84.9&nbsp;±&nbsp;0.3&nbsp;%", "&lt;b&gt;", "A note.", "One run only.", "synthetic",
        "A &#39;caption&#39;.", "12 s"}) {
    EXPECT_TRUE(contains(html, text)) << text;
  }
  const std::string csv = read(folder / "curves.csv");
  EXPECT_TRUE(contains(csv, "arm,seed,step,metric,value\nLN,0,0,accuracy,10\n"));
  EXPECT_TRUE(contains(csv, "LN,1,5,accuracy,nan\n"));
  EXPECT_TRUE(contains(csv, "\"Dy,T\",0,0,accuracy,9\n"));
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    EXPECT_NE(entry.path().filename().string()[0], '.') << "a temporary file was left";
  }
}

TEST(Report, ResultsJsonCarriesThePage) {
  const Report report = sample();
  const nlohmann::json json = nlohmann::json::parse(to_json(report));
  EXPECT_EQ(json["verdict"]["outcome"], "NOT REPRODUCED");
  EXPECT_EQ(json["results"]["difference"], -2.0);
  EXPECT_EQ(json["number"], 3);
  const Report back = report_from_json(to_json(report));
  EXPECT_EQ(to_json(back), to_json(report));
  const std::vector<std::string> svgs = {"<svg viewBox='0 0 1 1'></svg>"};
  EXPECT_EQ(to_html(back, svgs), to_html(report, svgs));
}

TEST(Report, RefusesJsonThatIsNoReport) {
  EXPECT_THROW(report_from_json("{"), Error);
  EXPECT_THROW(report_from_json("[]"), Error);
  EXPECT_THROW(report_from_json("{\"format\": 99}"), Error);
  Report report = sample();
  report.results = "not JSON";
  EXPECT_THROW(to_json(report), Error);
}

TEST(Report, PlotsOfOnePageShareNoIds) {
  Report report = sample();
  report.plots.resize(2, report.plots[0]);
  const std::string svg =
      "<?xml version=\"1.0\"?>\n<svg viewBox='0 0 1 1'><circle id='dot'/><text>id='dot'</text>"
      "<use xlink:href='#dot' fill='#0072B2'/></svg>\n";
  const std::string html = to_html(report, {svg, svg});
  EXPECT_FALSE(contains(html, "<?xml"));
  for (const char* part :
       {"<circle id='e03-0-dot'/>", "<circle id='e03-1-dot'/>", "<text>id='dot'</text>",
        "<use xlink:href='#e03-1-dot' fill='#0072B2'/>", "aria-label=\"Accuracy &lt;&amp;&gt;\""}) {
    EXPECT_TRUE(contains(html, part)) << part;
  }
}

// What the verdict rests on comes first, and nothing is said twice in a row.
TEST(Report, PageBeginsWithTheRuleAndTheFirstTable) {
  Report report = sample();
  report.plots.resize(2, report.plots[0]);
  report.tables.push_back({"More results", {"norm"}, {{"LN"}}, ""});
  const std::string html = to_html(report, {"<svg></svg>", "<svg></svg>"});
  size_t last = 0;
  for (const char* text : {"by the rule", "it was 2 points", ">Results<", "A &#39;caption&#39;.",
                           ">More results<", "One run only."}) {
    const size_t at = html.find(text);
    ASSERT_NE(at, html.npos) << text;
    EXPECT_GT(at, last) << text;
    last = at;
  }
  EXPECT_EQ(html.find("A &#39;caption&#39;."), html.rfind("A &#39;caption&#39;."));
}

TEST(Report, JoinsWhatIsUnderAFolder) {
  const Folder out;
  Report first = sample();
  first.number = 1, first.title = "The first", first.verdict.outcome = Outcome::reproduced;
  write_report(sample(), out.path);
  write_report(first, out.path);
  fs::create_directory(out.path / "unfinished");
  const std::string html = read(write_joined_report(out.path));
  expect_self_contained(html);
  EXPECT_TRUE(contains(html, "1 reproduced, 1 not reproduced, 0 inconclusive."));
  EXPECT_TRUE(contains(html, "href=\"#e03\""));
  EXPECT_TRUE(contains(html, "id=\"e03\""));
  EXPECT_LT(html.find("id=\"e01\""), html.find("id=\"e03\""));
}

TEST(Report, SaysWhyItCannotJoin) {
  const Folder out;
  EXPECT_THROW(write_joined_report(out.path), Error);
  fs::create_directories(out.path / "03");
  EXPECT_THROW(write_joined_report(out.path), Error);
  std::ofstream(out.path / "03" / "results.json") << "{";
  try {
    write_joined_report(out.path);
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(contains(error.what(), "results.json is not a report")) << error.what();
  }
}

TEST(Report, ChecksTheOutputFolder) {
  const Folder out;
  prepare_output(out.path / "new" / "folder");
  EXPECT_TRUE(fs::is_empty(out.path / "new" / "folder"));
  std::ofstream(out.path / "file") << "x";
  for (const fs::path& bad : {out.path / "file", out.path / "file" / "below", fs::path()}) {
    try {
      prepare_output(bad);
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_TRUE(contains(error.what(), "--out DIR")) << error.what();
      EXPECT_FALSE(contains(error.what(), "\n"));
    }
  }
  EXPECT_THROW(prepare_output("/proc/dyt"), Error);  // not writable, even for root
}

TEST(Report, WithoutGnuplotEverythingButThePlots) {
  const Folder out;
  write_report(sample(), out.path);  // the old plot must not stay beside new numbers
  const char* path = std::getenv("PATH");
  const std::string before = path ? path : "";
  setenv("PATH", "/nonexistent", 1);
  testing::internal::CaptureStderr();
  const fs::path folder = write_report(sample(), out.path);
  const std::string said = testing::internal::GetCapturedStderr();
  setenv("PATH", before.c_str(), 1);
  EXPECT_EQ(said, "plots skipped: gnuplot not found; apt install gnuplot-nox\n");
  EXPECT_TRUE(contains(read(folder / "report.html"), "not drawn"));
  EXPECT_TRUE(fs::exists(folder / "results.json"));
  EXPECT_FALSE(fs::exists(folder / "accuracy.svg"));
}

TEST(Report, OnTheTerminal) {
  std::ostringstream out;
  print_report(sample(), out);
  for (const char* text :
       {"Experiment 03: ViT: LN <vs> \"DyT\" (DyT, Table 1)\n", "  norm            ours\n",
        "  LN    84.91 ± 0.31 %\n", "  DyT              <b>\n", "\nNOT REPRODUCED\n", "  * LN\n",
        "rule : by the rule <1 point\n", "because: it was 2 points\n"}) {
    EXPECT_TRUE(contains(out.str(), text)) << text << out.str();
  }
}

TEST(Report, CurvesAreAveragedOverSeeds) {
  const Plot plot = plot_of_curves(sample().curves, "accuracy");
  ASSERT_EQ(plot.series.size(), 2u);
  EXPECT_EQ(plot.series[0].name, "LN");
  EXPECT_EQ(plot.series[0].x, (std::vector<double>{0, 5}));
  EXPECT_EQ(plot.series[0].y[0], 11);
  EXPECT_EQ(plot.series[0].low[0], 10);
  EXPECT_EQ(plot.series[0].high[0], 12);
  EXPECT_TRUE(std::isnan(plot.series[0].y[1]));  // a seed diverged
  EXPECT_THROW(plot_of_curves(sample().curves, "speed"), Error);
}

// Beyond where a seed ended, the mean would be that of the others.
TEST(Report, CurvesEndWhereASeedDoes) {
  const Plot plot = plot_of_curves({{.arm = "a", .seed = 1, .step = 1, .metric = "m", .value = 1},
                                    {.arm = "a", .seed = 1, .step = 2, .metric = "m", .value = 2},
                                    {.arm = "a", .seed = 2, .step = 1, .metric = "m", .value = 3}},
                                   "m");
  EXPECT_EQ(plot.series[0].x, std::vector<double>{1});
  EXPECT_EQ(plot.series[0].y, std::vector<double>{2});
}

TEST(Report, NumbersReadWell) {
  EXPECT_EQ(fixed(1.005, 1), "1.0");
  EXPECT_EQ(fixed(-0.001), "0.00");
  EXPECT_EQ(fixed(nan), "not finite");
  EXPECT_EQ(signed_fixed(0.31), "+0.31");
  EXPECT_EQ(signed_fixed(-0.31), "-0.31");
  EXPECT_EQ(percent(0.8231), "82.31 %");
  EXPECT_EQ(percent(0.8231, 1), "82.3 %");
  EXPECT_EQ(percent(nan), "not finite");
  EXPECT_EQ(plus_minus(std::vector<double>{1, 2, 3}, 1), "2.0 ± 1.0");
  EXPECT_EQ(plus_minus(std::vector<double>{1.5}), "1.50");
  EXPECT_EQ(percent_plus_minus(std::vector<double>{0.81, 0.83}), "82.00 ± 1.41 %");
  EXPECT_EQ(percent_plus_minus(std::vector<double>{0.81, nan}), "not finite");
  EXPECT_EQ(interval_text({.low = -0.311, .high = 0.52}), "[-0.31, +0.52]");
  EXPECT_EQ(two_digits(3), "03");
  EXPECT_EQ(two_digits(25), "25");
}

TEST(Report, IsStamped) {
  const Report report = sample();
  EXPECT_GT(report.machine.cores, 0);
  EXPECT_GT(report.machine.memory_gib, 0);
  EXPECT_FALSE(report.machine.cpu.empty());
  EXPECT_FALSE(report.commit.empty());
  EXPECT_EQ(report.date.size(), std::string("2025-01-02T03:04:05Z").size());
}

}  // namespace
}  // namespace dyt
