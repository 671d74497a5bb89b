// The small language model on which the experiments about text are made, and its recipe: chosen so
// that LayerNorm learns well in the time there is, and never for one of the arms.
#pragma once
#include "experiments/language_study.h"

namespace dyt {

struct GPTSetting {
  GPTConfig model;  // GPT-2's style, with LayerNorm; its vocabulary is the text's
  TrainOptions train;
  TextDataset text;
  int seeds;
};

// `grammar_bytes`: how much of the grammar there is to train on, if it is the text and the size is
// `small`; by default about as much as a run reads, so that hardly anything is read twice.
GPTSetting small_gpt(const Options& options, int64_t grammar_bytes = 0);

// The same model in LLaMA's style: RMSNorm, a head of its own.
GPTConfig llama_of(const GPTSetting& setting);

// The same model with Dynamic Tanh or another of its family. alpha starts at the values that the
// paper's authors tuned for language models of the nearest width, 1024: 1.0 everywhere. And, as in
// their LLaMA, a learned factor on the embeddings starts at sqrt(width): embeddings begin at 0.02,
// which a norm enlarges and DyT does not; without the factor GPT-2 hardly begins to learn.
GPTConfig with_squashing(GPTConfig config, NormKind kind);

// The same, but alpha starts at 1 / std of its first input, at every norm (--alpha0 auto).
GPTConfig with_calibrated_squashing(GPTConfig config, NormKind kind);

}  // namespace dyt
