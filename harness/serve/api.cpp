#include "harness/serve/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <exception>
#include <random>

#include "harness/random.h"
#include "harness/text.h"

namespace moecheck::harness::serve {
namespace {

struct Route {
  std::string_view path;
  bool get;     // else POST
  bool secret;  // asks for the key
};
constexpr Route kRoutes[] = {
    {"/health", true, false},
    {"/ping", true, false},
    {"/version", true, false},
    {"/metrics", true, false},
    {"/v1/models", true, true},
    {"/v1/completions", false, true},
    {"/v1/chat/completions", false, true},
    {"/tokenize", false, true},
    {"/detokenize", false, true},
};
constexpr std::string_view kModelPrefix = "/v1/models/";

HttpReply text_reply(std::string type, std::string body) {
  HttpReply r;
  r.content_type = std::move(type);
  r.body = std::move(body);
  return r;
}

HttpReply json_reply(std::string body) { return text_reply("application/json", std::move(body)); }

// As long for a wrong first byte as for a wrong last one.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned differs = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i)
    differs |=
        static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b.empty() ? '\0' : b[i % b.size()]);
  return differs == 0;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

// A web page can make a browser post anything but JSON to this machine without asking first: so JSON is asked for.
void require_json(const HttpRequest& r) {
  std::string type = lower(std::string_view(r.content_type).substr(0, r.content_type.find(';')));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  if (type != "application/json")
    throw ApiFailure{{415, "the body must be JSON: send Content-Type: application/json"}};
}

std::string http_date(std::time_t when) {
  std::tm utc{};
  gmtime_r(&when, &utc);
  char text[64];
  const std::size_t n = std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return {text, n};
}

}  // namespace

OpenAiApi::OpenAiApi(Engine& engine, const ServerOptions& options)
    : engine_(engine),
      options_(options),
      metrics_(options.model_names.front()),
      chaos_(options.chaos, options.chaos_seed),
      started_(std::time(nullptr)) {
  std::random_device device;
  process_ = mix64((std::uint64_t{device()} << 32 | device()) + static_cast<std::uint64_t>(started_));
  limits_.tokenizer = &engine.tokenizer();
  limits_.max_model_len = engine.max_model_len();
  limits_.models = options.model_names;
  limits_.max_sequences = std::min(options.max_sequences, options.max_queue);
  limits_.default_temperature = options.default_temperature;
  fingerprint_ =
      fmt::format("fp_{:010x}", Random(0, options.model_names.front() + "/" + options.version).bits(0) >> 24);
}

OpenAiApi::~OpenAiApi() {
  if (mailbox_) mailbox_->close();
  for (const auto& [id, g] : generations_) g->abandon();
}

void OpenAiApi::serve_on(HttpServer& http) {
  http_ = &http;
  mailbox_ = std::make_shared<Mailbox>([this] { http_->post([this] { deliver(); }); });
}

// ---- Routes

void OpenAiApi::handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
  ++metrics_.http_requests;
  const auto refuse = [&](const ApiError& error) {
    ++metrics_.http_refused;
    exchange->reply(error_reply(error));
  };
  try {
    route(request, exchange);
  } catch (const ApiFailure& f) {
    refuse(f.error);
  } catch (const std::bad_alloc&) {
    refuse({503, "the server is out of memory", "server_error", "", "overloaded"});
  } catch (const std::exception& e) {
    refuse({500, std::string("internal error: ") + printable(e.what()), "server_error"});
  }
}

void OpenAiApi::route(HttpRequest& r, const std::shared_ptr<Exchange>& exchange) {
  const bool one_model = r.path.starts_with(kModelPrefix);
  const auto known = std::find_if(std::begin(kRoutes), std::end(kRoutes), [&](const Route& k) {
    return k.path == r.path || (one_model && k.path == "/v1/models");
  });
  if (known == std::end(kRoutes))
    throw ApiFailure{{404, fmt::format("there is no {}", printable(r.path, 200)), "invalid_request_error", "",
                      "not_found"}};
  const char* allow = known->get ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  if (r.method == "OPTIONS") {
    HttpReply reply;
    reply.status = 204;
    reply.content_type.clear();
    reply.headers.emplace_back("Allow", allow);
    return exchange->reply(std::move(reply));
  }
  if (known->get ? r.method != "GET" && r.method != "HEAD" : r.method != "POST") {
    ++metrics_.http_refused;
    HttpReply reply =
        error_reply({405, fmt::format("{} answers {}, not {}", known->path, allow, printable(r.method, 40))});
    reply.headers.emplace_back("Allow", allow);
    return exchange->reply(std::move(reply));
  }
  if (known->secret) check_key(r);
  if (!known->get) require_json(r);
  if (r.path == "/v1/completions") return generate(Api::kCompletions, r, exchange);
  if (r.path == "/v1/chat/completions") return generate(Api::kChat, r, exchange);
  if (r.path == "/v1/models") return exchange->reply(json_reply(models_json()));
  if (one_model) return exchange->reply(json_reply(model_json(r.path.substr(kModelPrefix.size()))));
  if (r.path == "/tokenize") return exchange->reply(json_reply(tokenize(r.body)));
  if (r.path == "/detokenize") return exchange->reply(json_reply(detokenize(r.body)));
  if (r.path == "/metrics")
    return exchange->reply(
        text_reply("text/plain; version=0.0.4; charset=utf-8", metrics_.text(engine_.statistics())));
  if (r.path == "/version") {
    std::string body = "{\"version\":";
    append_json_string(body, options_.version);
    return exchange->reply(json_reply(body + "}"));
  }
  exchange->reply(text_reply("", ""));  // /health, /ping
}

void OpenAiApi::check_key(const HttpRequest& r) const {
  if (options_.api_key.empty()) return;
  const std::string_view given = r.authorization;
  if (lower(given.substr(0, 7)) == "bearer " && same_secret(given.substr(7), options_.api_key)) return;
  throw ApiFailure{{401,
                    given.empty() ? "You didn't provide an API key: send Authorization: Bearer KEY."
                                  : "Incorrect API key provided.",
                    "invalid_request_error", "", "invalid_api_key"}};
}

std::string OpenAiApi::model_json(const std::string& name) const {
  if (std::find(limits_.models.begin(), limits_.models.end(), name) == limits_.models.end())
    throw ApiFailure{{404, fmt::format("The model `{}` does not exist.", printable(name, 200)),
                      "invalid_request_error", "model", "model_not_found"}};
  std::string out = "{\"id\":";
  append_json_string(out, name);
  out += fmt::format(",\"object\":\"model\",\"created\":{},\"owned_by\":\"moecheck\",\"root\":", started_);
  append_json_string(out, limits_.models.front());
  return out + fmt::format(",\"parent\":null,\"max_model_len\":{}}}", limits_.max_model_len);
}

std::string OpenAiApi::models_json() const {
  std::string out = "{\"object\":\"list\",\"data\":[";
  for (std::size_t i = 0; i < limits_.models.size(); ++i)
    out += (i > 0 ? "," : "") + model_json(limits_.models[i]);
  return out + "]}";
}

std::string OpenAiApi::tokenize(const std::string& body) const {
  bool with_texts = false;
  const std::vector<TokenId> ids = parse_tokenize(body, limits_, with_texts);
  std::string out =
      fmt::format("{{\"count\":{},\"max_model_len\":{},\"tokens\":[{}],\"token_strs\":", ids.size(),
                  limits_.max_model_len, fmt::join(ids, ","));
  if (!with_texts) return out + "null}";
  out += '[';
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) out += ',';
    append_json_string(out, token_text(*limits_.tokenizer, ids[i]));
  }
  return out + "]}";
}

std::string OpenAiApi::detokenize(const std::string& body) const {
  TextStream text({});
  for (const TokenId id : parse_detokenize(body, limits_)) text.add(limits_.tokenizer->bytes(id));
  text.finish();
  std::string out = "{\"prompt\":";
  append_json_string(out, text.take());
  return out + "}";
}

// ---- Generation

// Faults that need no answer of the engine. Returns whether the request is over.
bool OpenAiApi::disturbed(const ChaosPlan& plan, const std::shared_ptr<Exchange>& exchange) {
  const auto busy = [&](int status, const char* type, const char* message, bool date) {
    ++metrics_.http_refused;
    HttpReply reply = error_reply({status, message, type});
    const auto wait = static_cast<std::int64_t>(plan.seconds + 0.999);
    reply.headers = {{"Retry-After", date ? http_date(std::time(nullptr) + wait) : fmt::format("{}", wait)}};
    exchange->reply(std::move(reply));
    return true;
  };
  constexpr const char* kTooMany = "Rate limit reached, as asked for.";
  constexpr const char* kOverloaded = "The engine is overloaded, as asked for.";
  switch (plan.fault) {
    case Fault::kReset:
      exchange->drop(true);
      return true;
    case Fault::kRefuse:
      exchange->drop(false);
      return true;
    case Fault::kTimeout:
      exchange->hang();
      return true;
    case Fault::kTooMany:
      return busy(429, "rate_limit_error", kTooMany, false);
    case Fault::kTooManyDate:
      return busy(429, "rate_limit_error", kTooMany, true);
    case Fault::kUnavailable:
      return busy(503, "server_error", kOverloaded, false);
    case Fault::kUnavailableDate:
      return busy(503, "server_error", kOverloaded, true);
    case Fault::kInternal:
      exchange->reply(error_reply({500, "An error, as asked for.", "server_error"}));
      return true;
    case Fault::kWrongType:
      exchange->reply(text_reply("text/html", "<html><body><h1>It works!</h1></body></html>\n"));
      return true;
    default:
      return false;
  }
}

void OpenAiApi::check_queue(const GenerationSpec& spec) const {
  const std::int64_t more = static_cast<std::int64_t>(spec.prompts.size()) * spec.n;
  if (in_flight_->load() + more > options_.max_queue)
    throw ApiFailure{
        {429, fmt::format("the queue is full: {} sequences are running or waiting", in_flight_->load()),
         "rate_limit_error", "", "queue_full"}};
}

void OpenAiApi::generate(Api api, HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  const ChaosPlan plan = chaos_.plan(request.body);
  if (disturbed(plan, exchange)) return;
  GenerationSpec spec = parse_generation(api, request.body, limits_);
  check_queue(spec);
  const std::uint64_t id = next_id_++;
  if (!spec.seeded) spec.sampling.seed = mix64(process_ + id);
  RenderOptions render;
  render.api = api;
  render.id = fmt::format("{}-{:016x}{:08x}", api == Api::kChat ? "chatcmpl" : "cmpl", process_, id);
  render.model = spec.model;
  render.fingerprint = fingerprint_;
  render.created = std::time(nullptr);
  render.logprobs = spec.logprobs >= 0;
  render.tokenizer = limits_.tokenizer;
  generations_.emplace(
      id, std::make_unique<Generation>(std::move(spec), plan, std::move(render), exchange, metrics_));
  exchange->on_gone([this, id] {
    const auto g = generations_.find(id);
    if (g == generations_.end()) return;
    g->second->abandon();
    generations_.erase(g);
  });
  if (plan.fault == Fault::kSlowFirst) return http_->after(plan.seconds, [this, id] { submit(id); });
  submit(id);
}

std::shared_ptr<Feed> OpenAiApi::make_feed(std::uint64_t id, const Generation& g,
                                           std::size_t sequence) const {
  const GenerationSpec& spec = g.spec();
  FeedOptions o;
  o.mailbox = mailbox_;
  o.in_flight = in_flight_;
  o.cancelled = g.cancelled();
  o.tokenizer = limits_.tokenizer;
  o.generation = id;
  o.sequence = sequence;
  o.stop = spec.stop;
  o.whole = !spec.stream;
  o.logprobs = spec.logprobs >= 0;
  if (spec.echo)
    for (const TokenId t : spec.prompts[sequence / static_cast<std::size_t>(spec.n)])
      o.echo += limits_.tokenizer->bytes(t);
  return std::make_shared<Feed>(std::move(o));
}

void OpenAiApi::submit(std::uint64_t id) {
  const auto found = generations_.find(id);
  if (found == generations_.end()) return;  // the client has gone
  try {
    submit_all(id, *found->second);
  } catch (const std::exception& e) {
    Delta failed;
    failed.ending = Ending::kError;
    failed.error = std::string("the engine did not take the request: ") + printable(e.what());
    found->second->take(std::move(failed));
    generations_.erase(found);
  }
}

void OpenAiApi::submit_all(std::uint64_t id, const Generation& g) {
  const GenerationSpec& spec = g.spec();
  for (std::size_t i = 0; i < spec.prompts.size() * static_cast<std::size_t>(spec.n); ++i) {
    const std::size_t prompt = i / static_cast<std::size_t>(spec.n);
    const auto feed = make_feed(id, g, i);
    GenerationRequest r;
    r.max_tokens = spec.max_tokens[prompt];
    r.prompt_logprobs = spec.echo && spec.logprobs >= 0;
    if (r.max_tokens == 0 && !r.prompt_logprobs) {  // an echo alone: nothing for the engine to do
      GenerationUpdate nothing;
      nothing.finish = Finish::kLength;
      feed->update(nothing);
      continue;
    }
    r.prompt = spec.prompts[prompt];
    r.ignore_eos = spec.ignore_eos;
    r.sampling = spec.sampling;
    r.sampling.seed += i % static_cast<std::size_t>(spec.n);  // the answers to one prompt differ
    r.logprobs = spec.logprobs;
    engine_.submit(std::move(r), [feed](const GenerationUpdate& u) { return feed->update(u); });
  }
}

void OpenAiApi::deliver() {
  for (Delta& delta : mailbox_->take()) {
    const auto found = generations_.find(delta.generation);
    if (found == generations_.end()) continue;
    const std::uint64_t id = delta.generation;
    // Taking may lose the client, whose on_gone looks the request up again.
    if (found->second->take(std::move(delta))) generations_.erase(id);
  }
}

}  // namespace moecheck::harness::serve
