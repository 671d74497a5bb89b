// A report as one self-contained HTML page: style and plots inlined, no script, no outside link.
#include <algorithm>
#include <cctype>
#include <sstream>

#include "core/error.h"
#include "experiments/report.h"

namespace dyt {
namespace {

// Readable from 320 px up, in light and dark. Plots keep their white background as a card; a wide
// table scrolls within its own box; on a narrow screen the overview's rows become cards.
constexpr const char* style = R"(
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b626b; --page: #fafafa; --card: #fff;
  --line: #d9dce0; --link: #0b5cad; --good: #006b4c; --bad: #a83f00; --open: #4b5563; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e9; --soft: #a3a9b1; --page: #16181b;
  --card: #1f2226; --line: #3a3f46; --link: #7cb8ff; --good: #4fd1a5; --bad: #ff9d66; --open: #b6bcc6; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .8rem 0 .2rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2rem 0 .2rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--link); }
.soft { color: var(--soft); }
.verdict { max-width: 50rem; margin: 1rem 0; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-left: .45rem solid var(--tone); border-radius: .4rem; }
.badge { color: var(--tone); font-weight: 700; letter-spacing: .02em; }
.reproduced { --tone: var(--good); } .not_reproduced { --tone: var(--bad); }
.inconclusive { --tone: var(--open); }
.sides { max-width: 50rem; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
  gap: .8rem; margin: 1rem 0; }
.sides > div { background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
  padding: .6rem 1rem; }
.label { color: var(--soft); font-size: .85rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; max-width: 40rem; }
figure svg { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: .4rem; }
figcaption { color: var(--soft); font-size: .9rem; padding: .3rem .2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem; border-bottom: 1px solid var(--line); }
th { border-bottom: 2px solid var(--soft); }
.scroll td { white-space: nowrap; } .scroll th { vertical-align: bottom; min-width: 4.5rem; }
.number { text-align: right; }
dl { display: grid; grid-template-columns: minmax(0, max-content) minmax(0, 1fr); gap: .15rem 1.2rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; }
section + section { border-top: 1px solid var(--line); margin-top: 3rem; }
@media (max-width: 48rem) {
  .overview thead { display: none; }
  .overview, .overview tbody, .overview tr, .overview td { display: block; }
  .overview tr { background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
    padding: .5rem .8rem; margin: 0 0 .8rem; }
  .overview td { border: 0; padding: .15rem 0; }
  .overview td[data-label]:not(:empty)::before { content: attr(data-label) ": "; color: var(--soft); }
  .plots { grid-template-columns: minmax(0, 1fr); }
}
@media print { figure, .verdict, table { break-inside: avoid; } }
)";

void replace_each(std::string& text, const std::string& old, const std::string& by) {
  for (size_t at = 0; (at = text.find(old, at)) != text.npos; at += by.size()) {
    text.replace(at, old.size(), by);
  }
}

std::string escape(const std::string& text) {
  std::string out = text;
  for (const auto& [character, entity] :
       {std::pair{"&", "&amp;"},
        {"<", "&lt;"},
        {">", "&gt;"},
        {"\"", "&quot;"},
        {"'", "&#39;"},
        {" %", "&nbsp;%"},
        {" ± ", "&nbsp;±&nbsp;"}}) {  // the last two keep a number on one line
    replace_each(out, character, entity);
  }
  return out;
}

const char* css_class(Outcome outcome) {
  return outcome == Outcome::reproduced       ? "reproduced"
         : outcome == Outcome::not_reproduced ? "not_reproduced"
                                              : "inconclusive";
}

std::string anchor_of(const Report& report) {
  std::string anchor = "e";
  return anchor += two_digits(report.number);
}

// The <svg> element of a document, with `prefix` before every id in its tags: the plots of a page
// share one space of ids, and gnuplot uses the same ones in each.
std::string inlined(const std::string& svg, const std::string& prefix, const std::string& title) {
  const std::string open = "<svg";
  const size_t begin = svg.find(open);
  if (begin == svg.npos) return "";
  std::string out = open + " role=\"img\" aria-label=\"" + escape(title) + "\"";
  for (size_t at = begin + open.size(); at < svg.size();) {
    const size_t tag_end = std::min(svg.find('>', at), svg.size());
    std::string tag = svg.substr(at, tag_end - at);
    for (const std::string mark : {" id='", " id=\"", "href='#", "href=\"#", "url(#"}) {
      replace_each(tag, mark, mark + prefix);
    }
    at = std::min(svg.find('<', tag_end), svg.size());
    out += tag + svg.substr(tag_end, at - tag_end);  // the tag, then the text up to the next one
  }
  return out.substr(0, out.find_last_not_of(" \n") + 1);
}

bool looks_like_number(const std::string& cell) {
  const size_t digit = cell.find_first_not_of("+-[ ");
  return digit != cell.npos && std::isdigit(static_cast<unsigned char>(cell[digit]));
}

// A column of numbers is aligned to the right; the first one names the row.
std::vector<bool> number_columns(const Table& table) {
  std::vector<bool> numbers(table.header.size(), !table.rows.empty());
  for (size_t column = 0; column < numbers.size(); ++column) {
    bool any = false;
    for (const auto& row : table.rows) {
      if (column >= row.size() || row[column].size() < 2) continue;  // "", "-"
      numbers[column] = numbers[column] && looks_like_number(row[column]);
      any = true;
    }
    numbers[column] = numbers[column] && any && column > 0;
  }
  return numbers;
}

void write_table(std::ostream& out, const Table& table) {
  const std::vector<bool> numbers = number_columns(table);
  const auto cell = [&](const char* tag, size_t column, const std::string& text) {
    out << '<' << tag << (numbers[column] ? " class=\"number\">" : ">") << escape(text) << "</"
        << tag << '>';
  };
  out << "<h3>" << escape(table.title) << "</h3>\n<div class=\"scroll\"><table>\n<thead><tr>";
  for (size_t i = 0; i < table.header.size(); ++i) cell("th", i, table.header[i]);
  out << "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    out << "<tr>";
    for (size_t i = 0; i < table.header.size(); ++i) cell("td", i, i < row.size() ? row[i] : "");
    out << "</tr>\n";
  }
  out << "</tbody></table></div>\n";
  if (!table.note.empty()) out << "<p class=\"soft\">" << escape(table.note) << "</p>\n";
}

void write_plots(std::ostream& out, const Report& report, const std::vector<std::string>& svgs,
                 const std::string& anchor) {
  if (report.plots.empty()) return;
  out << "<h3>Plots</h3>\n<div class=\"plots\">\n";
  for (size_t i = 0; i < report.plots.size(); ++i) {
    const Plot& plot = report.plots[i];
    const std::string prefix = anchor + "-" + std::to_string(i) + "-";
    const std::string svg = i < svgs.size() ? inlined(svgs[i], prefix, plot.title) : "";
    out << "<figure>" << svg << "<figcaption>";
    if (svg.empty()) {
      out << "<strong>" << escape(plot.title) << "</strong>: not drawn (gnuplot was not found). ";
    }
    const bool said = i > 0 && plot.caption == report.plots[i - 1].caption;
    out << (said ? "" : escape(plot.caption)) << "</figcaption></figure>\n";
  }
  out << "</div>\n";
}

void write_pairs(std::ostream& out, const char* heading,
                 const std::vector<std::pair<std::string, std::string>>& pairs) {
  if (pairs.empty()) return;
  out << "<h3>" << heading << "</h3>\n<dl>\n";
  for (const auto& [name, value] : pairs) {
    out << "<dt>" << escape(name) << "</dt><dd>" << escape(value) << "</dd>\n";
  }
  out << "</dl>\n";
}

std::string duration(double seconds) {
  if (seconds < 120) return fixed(seconds, seconds < 10 ? 1 : 0) + " s";
  return fixed(seconds / 60, 1) + " min";
}

void write_section(std::ostream& out, const Report& report, const std::vector<std::string>& svgs,
                   const std::string& anchor, const char* heading) {
  const Verdict& verdict = report.verdict;
  out << "<section id=\"" << anchor << "\">\n<" << heading << ">" << two_digits(report.number)
      << " &middot; " << escape(report.title) << "</" << heading << ">\n";
  out << "<p class=\"soft\">" << escape(report.source) << "</p>\n";
  out << "<p><span class=\"label\">The claim:</span> " << escape(report.claim) << "</p>\n";
  out << "<div class=\"verdict " << css_class(verdict.outcome) << "\"><div class=\"badge\">"
      << name_of(verdict.outcome) << "</div>\n<p class=\"soft\">The rule: " << escape(verdict.rule)
      << "</p>\n<p><span class=\"label\">Because:</span> " << escape(verdict.because)
      << "</p></div>\n";
  if (!report.paper.empty() || !report.ours.empty()) {
    out << "<div class=\"sides\"><div><div class=\"label\">The paper</div>" << escape(report.paper)
        << "</div><div><div class=\"label\">Ours</div>" << escape(report.ours) << "</div></div>\n";
  }
  // The first table has the answer.
  if (!report.tables.empty()) write_table(out, report.tables.front());
  write_plots(out, report, svgs, anchor);
  for (size_t i = 1; i < report.tables.size(); ++i) write_table(out, report.tables[i]);
  if (!report.notes.empty()) out << "<h3>Notes</h3>\n";
  for (const std::string& note : report.notes) out << "<p>" << escape(note) << "</p>\n";
  write_pairs(out, "Settings", report.settings);
  const Machine& machine = report.machine;
  write_pairs(out, "Run",
              {{"device", machine.device},
               {"processor", machine.cpu + ", " + std::to_string(machine.cores) +
                                 (machine.cores == 1 ? " core" : " cores")},
               {"memory", fixed(machine.memory_gib, 1) + " GiB"},
               {"commit", report.commit},
               {"date", report.date},
               {"time taken", duration(report.seconds)}});
  out << "</section>\n";
}

void write_overview(std::ostream& out, const std::vector<Report>& reports,
                    const std::vector<std::string>& anchors) {
  out << "<table class=\"overview\">\n<thead><tr><th>Experiment</th><th>Claim</th><th>Paper</th>"
         "<th>Ours</th><th>Verdict</th></tr></thead>\n<tbody>\n";
  for (size_t i = 0; i < reports.size(); ++i) {
    const Report& r = reports[i];
    out << "<tr><td><a href=\"#" << anchors[i] << "\">" << two_digits(r.number) << " "
        << escape(r.title) << "</a></td><td>" << escape(r.claim) << "</td><td data-label=\"Paper\">"
        << escape(r.paper) << "</td><td data-label=\"Ours\">" << escape(r.ours)
        << "</td><td class=\"" << css_class(r.verdict.outcome) << "\"><span class=\"badge\">"
        << name_of(r.verdict.outcome) << "</span></td></tr>\n";
  }
  out << "</tbody></table>\n";
}

std::string page(const std::string& title, const std::string& body) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
         escape(title) + "</title>\n<style>" + style + "</style>\n</head>\n<body>\n<main>\n" +
         body + "</main>\n</body>\n</html>\n";
}

}  // namespace

std::string to_html(const Report& report, const std::vector<std::string>& svgs) {
  std::ostringstream body;
  write_section(body, report, svgs, anchor_of(report), "h1");
  return page(two_digits(report.number) + " " + report.title, body.str());
}

std::string to_joined_html(const std::vector<Report>& reports,
                           const std::vector<std::vector<std::string>>& svgs) {
  std::ostringstream body;
  body << "<h1>Experiments</h1>\n<p class=\"soft\">";
  for (const Outcome o : {Outcome::reproduced, Outcome::not_reproduced, Outcome::inconclusive}) {
    const auto count = std::count_if(reports.begin(), reports.end(),
                                     [&](const Report& r) { return r.verdict.outcome == o; });
    std::string name = name_of(o);
    for (char& c : name) c = char(std::tolower(static_cast<unsigned char>(c)));
    body << (o == Outcome::reproduced ? "" : ", ") << count << " " << name;
  }
  body << ".</p>\n";
  std::vector<std::string> anchors;  // e03; e03-2 for a second run of the same experiment
  for (const Report& report : reports) {
    std::string anchor = anchor_of(report);
    for (int again = 2; std::count(anchors.begin(), anchors.end(), anchor); ++again) {
      anchor = anchor_of(report) + "-" + std::to_string(again);
    }
    anchors.push_back(anchor);
  }
  write_overview(body, reports, anchors);
  for (size_t i = 0; i < reports.size(); ++i) {
    write_section(body, reports[i], i < svgs.size() ? svgs[i] : std::vector<std::string>{},
                  anchors[i], "h2");
  }
  return page("dyt: experiments", body.str());
}

}  // namespace dyt
