// datasets/fetch.sh against a small web server on localhost.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <thread>

#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

// Answers GET with one of its files; from a byte on, if the request has a range and the server can.
class Server {
 public:
  Server() {
    socket_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    bind(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    listen(socket_, 8);
    socklen_t size = sizeof address;
    getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Server() {
    stop_ = true;
    shutdown(socket_, SHUT_RDWR);
    thread_.join();
    close(socket_);
  }
  std::string address() const { return "http://127.0.0.1:" + std::to_string(port_); }

  // To be set before a request.
  std::map<std::string, std::string> files;        // "/name" and its bytes
  std::atomic<size_t> break_off_after = SIZE_MAX;  // bytes of a file
  std::atomic<bool> can_resume = true;
  std::atomic<size_t> bytes_sent = 0;

 private:
  void serve() {
    while (!stop_) {
      const int connection = accept(socket_, nullptr, nullptr);
      if (connection < 0) continue;
      answer(connection);
      shutdown(connection, SHUT_RDWR);
      close(connection);
    }
  }
  void answer(int connection) {
    std::string request;
    char buffer[4096];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = recv(connection, buffer, sizeof buffer, 0);
      if (got <= 0) return;
      request.append(buffer, size_t(got));
    }
    const std::string path = request.substr(4, request.find(' ', 4) - 4);
    const auto file = files.find(path);
    if (file == files.end()) {
      return send_all(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    const std::string& bytes = file->second;
    size_t begin = 0;
    const size_t range = request.find("Range: bytes=");
    if (can_resume && range != std::string::npos) begin = std::stoul(request.substr(range + 13));
    const std::string total = std::to_string(bytes.size());
    if (begin >= bytes.size()) {
      return send_all(connection,
                      "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n"
                      "Content-Range: bytes */" +
                          total + "\r\n\r\n");
    }
    std::string head = "HTTP/1.1 200 OK\r\n";
    if (begin > 0) {
      head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes " + std::to_string(begin) + "-" +
             std::to_string(bytes.size() - 1) + "/" + total + "\r\n";
    }
    head += "Content-Length: " + std::to_string(bytes.size() - begin) + "\r\n\r\n";
    const std::string body = bytes.substr(begin, break_off_after);
    send_all(connection, head + body);
    bytes_sent += body.size();
  }
  static void send_all(int connection, const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t sent = send(connection, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) return;
      at += size_t(sent);
    }
  }

  int socket_ = -1, port_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

bool installed(const std::string& tool) {
  return std::system(("command -v " + tool + " > /dev/null 2>&1").c_str()) == 0;
}

class Fetch : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* tool : {"bash", "curl", "sha256sum", "tar"}) {
      if (!installed(tool)) GTEST_SKIP() << tool << " is not installed";
    }
    if (!fs::exists("datasets/fetch.sh")) GTEST_SKIP() << "datasets/fetch.sh is not here";
    for (int i = 0; i < 100000; ++i) letters_ += char('a' + i * i % 23);
    server_.files["/letters.txt"] = letters_;
    write_list("letters", "/letters.txt", sha256(letters_), "-");
  }

  // A list with one dataset of one file.
  void write_list(const std::string& name, const std::string& path, const std::string& sum,
                  const std::string& folder) {
    work_.write("list", name + " " + server_.address() + path + " " + sum + " " + folder + "\n");
  }
  std::string output_of(const std::string& command) const {
    std::string output;
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    char buffer[4096];
    while (const size_t got = fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, got);
    exit_code_ = pclose(pipe) / 256;
    return output;
  }
  std::string sha256(const std::string& bytes) const {
    const std::string file = work_.write("to_be_summed", bytes);
    return output_of("sha256sum " + file).substr(0, 64);
  }
  // Runs fetch.sh into work/out; returns what it said.
  std::string fetch(const std::string& name) const {
    return output_of("DYT_FETCH_LIST=" + work_.path("list") + " no_proxy=127.0.0.1 " +
                     "datasets/fetch.sh " + name + " " + work_.path("out"));
  }
  std::vector<std::string> found() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(work_.path("out"))) {
      if (entry.is_regular_file()) {
        names.push_back(fs::relative(entry.path(), work_.path("out")).string());
      }
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  using Names = std::vector<std::string>;
  TemporaryFolder work_;
  Server server_;
  std::string letters_;
  mutable int exit_code_ = 0;
};

TEST_F(Fetch, DownloadsAFileOnce) {
  fetch("letters");
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(work_.read("out/letters.txt"), letters_);
  EXPECT_EQ(found(), Names{"letters.txt"});
  const size_t sent = server_.bytes_sent;
  EXPECT_NE(fetch("letters").find("there already"), std::string::npos);
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(server_.bytes_sent, sent);
}

TEST_F(Fetch, GoesOnWhereItBrokeOff) {
  server_.break_off_after = 40000;
  const std::string text = fetch("letters");
  EXPECT_EQ(exit_code_, 1);
  EXPECT_NE(text.find("broke off"), std::string::npos) << text;
  EXPECT_EQ(found(), Names{"letters.txt.part"});
  server_.break_off_after = SIZE_MAX;
  const size_t before = server_.bytes_sent, part = work_.read("out/letters.txt.part").size();
  EXPECT_GT(part, 0u);
  fetch("letters");
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(server_.bytes_sent - before, letters_.size() - part);
  EXPECT_EQ(work_.read("out/letters.txt"), letters_);
  EXPECT_EQ(found(), Names{"letters.txt"});
}

TEST_F(Fetch, BeginsAgainWhereTheServerCannotGoOn) {
  server_.can_resume = false;
  work_.write("out/letters.txt.part", letters_.substr(0, 500));
  fetch("letters");
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(work_.read("out/letters.txt"), letters_);
}

TEST_F(Fetch, TakesAPartThatIsWholeAlready) {
  work_.write("out/letters.txt.part", letters_);
  fetch("letters");
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(found(), Names{"letters.txt"});
}

TEST_F(Fetch, ThrowsAwayWhatHasAnotherChecksum) {
  server_.files["/letters.txt"][777] = '!';
  const std::string text = fetch("letters");
  EXPECT_EQ(exit_code_, 1);
  EXPECT_NE(text.find("SHA-256"), std::string::npos) << text;
  EXPECT_EQ(found(), Names{});
  server_.files["/letters.txt"] = letters_;
  fetch("letters");
  EXPECT_EQ(exit_code_, 0);
}

TEST_F(Fetch, ReplacesAFileThatIsNotTheRightOne) {
  work_.write("out/letters.txt", "half of it");
  fetch("letters");
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(work_.read("out/letters.txt"), letters_);
}

TEST_F(Fetch, UnpacksAnArchive) {
  work_.write("pack/set/train/1", "one");
  work_.write("pack/set/test/2", "two");
  output_of("tar -czf " + work_.path("set.tar.gz") + " -C " + work_.path("pack") + " set");
  const std::string archive = work_.read("set.tar.gz");
  server_.files["/set.tar.gz"] = archive;
  write_list("set", "/set.tar.gz", sha256(archive), "set");
  fetch("set");
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(found(), (Names{"set/test/2", "set/train/1"}));
  EXPECT_EQ(work_.read("out/set/train/1"), "one");
  const size_t sent = server_.bytes_sent;
  fetch("set");
  EXPECT_EQ(exit_code_, 0);
  EXPECT_EQ(server_.bytes_sent, sent);
  // One that holds another folder than the list says.
  write_list("set", "/set.tar.gz", sha256(archive), "other");
  EXPECT_NE(fetch("set").find("does not hold a folder other"), std::string::npos);
  EXPECT_EQ(exit_code_, 1);
  EXPECT_FALSE(fs::exists(work_.path("out/other")));
  EXPECT_FALSE(fs::exists(work_.path("out/other.unpacking")));
}

TEST_F(Fetch, SaysWhatItCannotDo) {
  EXPECT_NE(fetch("digits").find("unknown dataset \"digits\": expected one of: letters"),
            std::string::npos);
  EXPECT_EQ(exit_code_, 2);
  server_.files.clear();
  EXPECT_NE(fetch("letters").find("broke off (curl says 22)"), std::string::npos);
  EXPECT_EQ(exit_code_, 1);
  EXPECT_EQ(found(), Names{});
  const std::string usage = output_of("datasets/fetch.sh");
  EXPECT_EQ(exit_code_, 2);
  for (const char* name : {"cifar10", "mnist", "fashion-mnist", "tinyshakespeare", "imagenette"}) {
    EXPECT_NE(usage.find(name), std::string::npos) << usage;
  }
}

}  // namespace
}  // namespace dyt
