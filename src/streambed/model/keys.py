"""What each key of a checkpoint's JSON files means here.

A key that decides a vector is read, or it must have the one value that Streambed computes. Keys that decide nothing are
listed. A key that is on no list is refused by name, since it may be one that another program obeys: a checkpoint is
served as it was meant, or not at all.

The lists were made from what transformers 4 and 5, sentence-transformers 3 to 6, PEFT, TRL and Unsloth write.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streambed.errors import CheckpointError

SERVED = "only causal Qwen3 with last-token pooling is served"


@dataclass(frozen=True)
class Keys:
    """The known keys of one kind of file."""

    read: frozenset[str] = frozenset()
    """Read and checked by other code, such as `Qwen3Config`."""
    fixed: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    """These have one of the values, or are null, or the checkpoint is refused for the reason."""
    training: frozenset[str] = frozenset()
    """Only training reads these."""
    harmless: frozenset[str] = frozenset()
    """These decide nothing about a vector: notes, formats of weights, generation of text, heads that are not used."""


@dataclass
class Reader:
    """Checks the files of one checkpoint against the lists, and remembers what it saw."""

    allow_unknown: bool = False
    unknown: list[str] = field(default_factory=list)
    """Unknown keys that were let through, as `file: key`."""
    training: list[str] = field(default_factory=list)
    """Keys that only training reads, as `file: key`."""

    def check(self, file: Path, values: Mapping[str, Any], keys: Keys, within: str = "") -> None:
        """Raises CheckpointError for a key whose value is not computed here, or that is not known.

        within: the key of the file under which `values` stand, if not at its top.
        """
        strangers = []
        for key, value in values.items():
            name = f"{within}.{key}" if within else key
            if key in keys.read:
                continue
            if key in keys.fixed:
                allowed, reason = keys.fixed[key]
                if value is not None and not any(_is_same(value, each) for each in allowed):
                    raise CheckpointError(f"{file}: {name} is {_show(value)}; {reason}")
            elif key in keys.training:
                self.training.append(f"{file.name}: {name}")
            elif not (key in keys.harmless or key.startswith("_") or _is_nothing(value)):
                strangers.append(name)
        if not strangers:
            return
        if not self.allow_unknown:
            raise CheckpointError(
                f"{file}: {'key' if len(strangers) == 1 else 'keys'} {', '.join(map(_show, strangers))} "
                f"{'is' if len(strangers) == 1 else 'are'} not known here, and may change what a vector should be; "
                f"{SERVED}. --allow-unknown-config loads it all the same"
            )
        self.unknown += [f"{file.name}: {name}" for name in strangers]


def _is_same(value: Any, allowed: Any) -> bool:
    """Equality as JSON has it: true is not 1, but 1.0 is."""
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 120 else f"{shown[:120]}..."


_CAUSAL = ((True,), f"{SERVED}, and this one attends in both directions")
_ONE_WAY = ((False,), f"{SERVED}, and this one attends in both directions")
_NO_SLIDING = ((False,), "sliding-window attention is not supported")
_PLAIN_QWEN3 = ((True,), "Qwen3 has it, and a network without it is another one")
_NO_HEADS = ((False,), "only the network's hidden states are served")

NETWORK = Keys(
    read=_words(
        """
        model_type architectures hidden_act quantization_config layer_types use_sliding_window attention_bias
        rope_parameters rope_scaling rope_theta vocab_size hidden_size intermediate_size num_hidden_layers
        num_attention_heads num_key_value_heads head_dim max_position_embeddings rms_norm_eps
        """
    ),
    fixed={
        **dict.fromkeys(
            ("is_causal", "causal", "causal_attention", "use_causal_mask", "use_causal_attention", "causal_mask"),
            _CAUSAL,
        ),
        **dict.fromkeys(
            ("use_bidirectional_attention", "bidirectional", "is_bidirectional", "bidirectional_attention"), _ONE_WAY
        ),
        **dict.fromkeys(("qk_norm", "use_qk_norm", "use_rope", "use_rotary", "use_rms_norm"), _PLAIN_QWEN3),
        "use_swa": _NO_SLIDING,
        "partial_rotary_factor": ((1,), "Qwen3 rotates all of a head"),
        "is_encoder_decoder": _NO_HEADS,
        "add_cross_attention": _NO_HEADS,
        "pruned_heads": (({}, []), "pruned networks are not supported"),
    },
    training=_words(
        """
        attention_dropout hidden_dropout hidden_dropout_prob embd_pdrop resid_pdrop attn_pdrop dropout classifier_dropout
        initializer_range loss_type router_aux_loss_coef output_router_logits problem_type is_matryoshka
        matryoshka_dimensions matryoshka_dims gradient_checkpointing label_smoothing neftune_noise_alpha
        unsloth_fixed unsloth_version unsloth_gradient_checkpointing
        """
    ),
    harmless=_words(
        """
        dtype torch_dtype transformers_version transformers.js_config tie_word_embeddings use_cache cache_implementation
        sliding_window max_window_layers chunk_size_feed_forward attn_implementation experts_implementation name_or_path
        tokenizer_class prefix bos_token_id eos_token_id pad_token_id sep_token_id mask_token_id unk_token_id
        decoder_start_token_id is_decoder id2label label2id finetuning_task task_specific_params torchscript
        use_bfloat16 tf_legacy_loss tie_encoder_decoder cross_attention_hidden_size pretraining_tp base_model_name_or_path
        output_attentions output_hidden_states return_dict return_dict_in_generate output_scores output_logits
        max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams
        num_beam_groups temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff repetition_penalty
        encoder_repetition_penalty length_penalty diversity_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
        bad_words_ids force_words_ids renormalize_logits forced_bos_token_id forced_eos_token_id remove_invalid_values
        exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias token_healing guidance_scale
        watermarking_config num_return_sequences penalty_alpha dola_layers low_memory constraints num_assistant_tokens
        num_assistant_tokens_schedule assistant_confidence_threshold assistant_lookbehind target_lookbehind
        prompt_lookup_num_tokens max_matching_ngram_size
        """
    ),
)
"""`config.json`."""

ROPE = Keys(
    read=_words("rope_theta rope_type type"),
    fixed={"partial_rotary_factor": ((1,), "Qwen3 rotates all of a head")},
)
"""`rope_parameters`, or `rope_scaling`, of `config.json`."""

SENTENCE_TRANSFORMERS = Keys(
    read=_words("prompts default_prompt_name truncate_dim"),
    fixed={"model_type": (("SentenceTransformer",), "only models of one dense vector for a text are served")},
    harmless=_words("similarity_fn_name requirements"),
)
"""`config_sentence_transformers.json`. Similarity is computed by whoever compares vectors."""

TRANSFORMER = Keys(
    read=_words(
        """
        max_seq_length do_lower_case model_args model_kwargs tokenizer_args processor_kwargs config_args config_kwargs
        """
    ),
    fixed={
        "transformer_task": (("feature-extraction",), "only hidden states are served, which is 'feature-extraction'"),
        "modality_config": (
            ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
            "only text is served, by the network's last hidden state",
        ),
        "module_output_name": (("token_embeddings",), "'token_embeddings' is expected"),
        "query_expansion": ((), "query expansion is not supported"),
    },
    harmless=_words("unpad_inputs"),
)
"""`sentence_bert_config.json`."""

LOADING = Keys(
    read=_words("model_max_length"),
    fixed={"truncation_side": (("right",), "texts are cut at their end")},
    harmless=_words(
        """
        dtype torch_dtype attn_implementation device_map low_cpu_mem_usage trust_remote_code use_cache use_safetensors
        padding_side padding pad_token use_fast revision cache_dir local_files_only
        """
    ),
)
"""Arguments that `sentence_bert_config.json` passes to transformers for network, configuration and tokenizer."""

NETWORK_LOADING = Keys(
    fixed={**NETWORK.fixed, "attention_bias": ((), "set it in config.json")},
    training=NETWORK.training,
    harmless=NETWORK.harmless | LOADING.harmless,
)
"""The same for `config.json`'s own values, which it would replace: only those that decide nothing may be there."""

MODULE = Keys(read=_words("type path"), harmless=_words("idx name"))
"""An entry of `modules.json`."""

POOLING = Keys(
    read=_words(
        """
        pooling_mode pooling_mode_cls_token pooling_mode_mean_tokens pooling_mode_max_tokens
        pooling_mode_mean_sqrt_len_tokens pooling_mode_weightedmean_tokens pooling_mode_lasttoken word_embedding_dimension
        embedding_dimension
        """
    ),
    harmless=_words("include_prompt"),  # the last token is never one of the prompt's
)
"""`1_Pooling/config.json`."""

NORMALIZE = Keys(
    fixed={
        "module_input_name": (("sentence_embedding",), "the pooled vector is what is scaled to unit length"),
        "module_output_name": (("sentence_embedding",), "the pooled vector is what is scaled to unit length"),
        "normalize_embeddings": ((True,), "vectors are always of unit length"),
    },
)
"""`2_Normalize/config.json`."""

_TOKENS = "added_tokens_decoder additional_special_tokens extra_special_tokens model_specific_special_tokens"
SPECIAL_TOKENS = Keys(read=_words(_TOKENS))
"""`special_tokens_map.json`, beside `bos_token`, `eos_token` and their like."""

TOKENIZER = Keys(
    read=_words(f"model_max_length max_len {_TOKENS}"),
    fixed={
        "add_prefix_space": ((False,), "a space before each text is not supported"),
        "truncation_side": (("right",), "texts are cut at their end"),
        "tokenizer_class": (
            ("Qwen2Tokenizer", "Qwen2TokenizerFast", "Qwen3Tokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"),
            "only Qwen's tokenizer, and what tokenizer.json alone defines, is served",
        ),
    },
    harmless=_words(
        """
        add_bos_token add_eos_token split_special_tokens clean_up_tokenization_spaces chat_template errors
        padding_side padding_strategy pad_to_multiple_of pad_token_type_id pad_token_id truncation_strategy max_length stride
        model_input_names legacy use_fast use_default_system_prompt from_slow name_or_path tokenizer_file vocab_file
        merges_file processor_class special_tokens_map_file backend is_local response_schema local_files_only
        fix_mistral_regex
        """
    ),
)
"""`tokenizer_config.json`. Which tokens stand around a text is said by the post-processor of `tokenizer.json`, and whether
special tokens in a text are split by a setting of ours."""
