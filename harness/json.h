#pragma once
// nlohmann::json, with its members compiled once (json.cpp): every file that only uses them builds about a third faster.
#include <nlohmann/json.hpp>

extern template class nlohmann::basic_json<>;
extern template class nlohmann::basic_json<nlohmann::ordered_map>;
