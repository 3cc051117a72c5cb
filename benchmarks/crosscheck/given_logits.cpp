// llama.cpp's own perplexity.cpp, unchanged, fed with logits from a file instead of from a model.
//
// Usage: given-logits FILE SCRATCH. FILE holds int32 window, vocabulary, windows; int32 token ids; fp32 logits of
// the base model [windows, window, vocabulary], then those of the other model. The base's pass writes llama.cpp's
// 16-bit log-probabilities to SCRATCH; the other's reads them and prints the statistics. Only what these two
// functions call is defined here; the rest of llama.cpp is neither built nor linked. Figures are printed with twelve
// digits where llama.cpp's formats have three to six.

#include "perplexity.cpp"

#include <cstdarg>
#include <regex>

namespace {

struct Supply {
    std::ifstream           file;
    int32_t                 shape[3]; // window, vocabulary, windows
    std::vector<llama_token> tokens;
    std::vector<float>      logits; // of the window at hand
    int64_t                 next = 0;

    int window() const { return shape[0]; }
    int vocabulary() const { return shape[1]; }
    int windows() const { return shape[2]; }

    template <typename T> void read(T * to, size_t count) {
        if (!file.read(reinterpret_cast<char *>(to), std::streamsize(count * sizeof(T)))) {
            fprintf(stderr, "the file is too short\n");
            exit(3);
        }
    }
} supply;

} // namespace

// --- logging: to stdout, with more digits -----------------------------------------------------------------------
struct common_log * common_log_main() { return nullptr; }
int common_log_get_verbosity_thold() { return 1000; }
void common_log_add(struct common_log *, enum ggml_log_level, const char * format, ...) {
    static const std::regex number("%[0-9]*\\.[0-9]+l?f");
    const std::string wide = std::regex_replace(format, number, "%.12g");
    va_list arguments;
    va_start(arguments, format);
    vprintf(wide.c_str(), arguments);
    va_end(arguments);
}

// --- a model that knows its logits ------------------------------------------------------------------------------
const llama_model * llama_get_model(const llama_context *) { return nullptr; }
const llama_vocab * llama_model_get_vocab(const llama_model *) { return nullptr; }
int32_t llama_vocab_n_tokens(const llama_vocab *) { return supply.vocabulary(); }
llama_token llama_vocab_bos(const llama_vocab *) { return 0; }
bool llama_vocab_get_add_bos(const llama_vocab *) { return false; }
bool llama_vocab_get_add_eos(const llama_vocab *) { return false; }
uint32_t llama_n_ctx(const llama_context *) { return uint32_t(supply.window()); }
uint32_t llama_n_seq_max(const llama_context *) { return 1; }
llama_memory_t llama_get_memory(const llama_context *) { return nullptr; }
void llama_memory_clear(llama_memory_t, bool) {}
void llama_synchronize(llama_context *) {}
float * llama_get_logits(llama_context *) { return supply.logits.data(); }
float * llama_get_logits_ith(llama_context *, int32_t row) {
    return supply.logits.data() + size_t(row) * size_t(supply.vocabulary());
}
void llama_batch_ext_free(llama_batch_ext *) {}
common_batch::common_batch(llama_context *) {}
void common_batch::clear() { tokens.clear(); }
int32_t common_batch::add(llama_token id, llama_pos, llama_seq_id, bool) {
    tokens.push_back({});
    tokens.back().id = id;
    return int32_t(tokens.size()) - 1;
}
llama_batch_ext * common_batch::get_sub_batch(int32_t, int32_t) {
    // The window that llama.cpp is about to run must be the one whose logits come next.
    const auto expected = supply.tokens.begin() + (supply.next % supply.windows()) * supply.window();
    for (size_t i = 0; i < tokens.size(); i++) {
        if (tokens[i].id != expected[long(i)]) {
            fprintf(stderr, "another window was asked for\n");
            exit(3);
        }
    }
    return nullptr;
}
int32_t llama_process(llama_context *, llama_process_type, llama_batch_ext *) {
    supply.read(supply.logits.data(), supply.logits.size());
    supply.next++;
    return 0;
}
std::vector<llama_token> common_tokenize(const llama_context *, const std::string &, bool, bool) {
    return supply.tokens;
}

size_t llama_max_devices() { return 1; }
void ggml_abort(const char * file, int line, const char *, ...) {
    fprintf(stderr, "assertion at %s:%d\n", file, line);
    abort();
}

int main(int argc, char ** argv) {
    if (argc != 3) {
        return 2;
    }
    supply.file.open(argv[1], std::ios::binary);
    supply.read(supply.shape, 3);
    supply.tokens.resize(size_t(supply.window()) * size_t(supply.windows()));
    supply.read(supply.tokens.data(), supply.tokens.size());
    supply.logits.resize(size_t(supply.window()) * size_t(supply.vocabulary()));

    common_params params;
    params.n_ctx = params.n_batch = supply.window();
    params.n_chunks = supply.windows();
    params.logits_file = argv[2];
    perplexity(nullptr, params, params.n_ctx);
    kl_divergence(nullptr, params);
    return 0;
}
