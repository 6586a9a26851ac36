#include "model/tensor_type.h"

#include <stdio.h>

static const struct tensor_type_info infos[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = {"F32", 1, 4},         [TENSOR_F16] = {"F16", 1, 2},           [TENSOR_Q4_0] = {"Q4_0", 32, 18},
    [TENSOR_Q4_1] = {"Q4_1", 32, 20},     [TENSOR_Q5_0] = {"Q5_0", 32, 22},       [TENSOR_Q5_1] = {"Q5_1", 32, 24},
    [TENSOR_Q8_0] = {"Q8_0", 32, 34},     [TENSOR_Q2_K] = {"Q2_K", 256, 84},      [TENSOR_Q3_K] = {"Q3_K", 256, 110},
    [TENSOR_Q4_K] = {"Q4_K", 256, 144},   [TENSOR_Q5_K] = {"Q5_K", 256, 176},     [TENSOR_Q6_K] = {"Q6_K", 256, 210},
    [TENSOR_IQ4_NL] = {"IQ4_NL", 32, 18}, [TENSOR_IQ4_XS] = {"IQ4_XS", 256, 136}, [TENSOR_BF16] = {"BF16", 1, 2},
    [TENSOR_MXFP4] = {"MXFP4", 32, 17},
};

/* Ids that the format has defined and weir refuses. */
static const struct {
    uint32_t id;
    const char *name;
} refused[] = {
    {4, "Q4_2"},    {5, "Q4_3"},        {9, "Q8_1"},        {15, "Q8_K"},       {16, "IQ2_XXS"},
    {17, "IQ2_XS"}, {18, "IQ3_XXS"},    {19, "IQ1_S"},      {21, "IQ3_S"},      {22, "IQ2_S"},
    {24, "I8"},     {25, "I16"},        {26, "I32"},        {27, "I64"},        {28, "F64"},
    {29, "IQ1_M"},  {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},   {34, "TQ1_0"},
    {35, "TQ2_0"},  {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {40, "NVFP4"},
};

const struct tensor_type_info *tensor_type_info(uint32_t type)
{
    return type < TENSOR_TYPE_COUNT && infos[type].name ? &infos[type] : NULL;
}

const char *tensor_type_name(uint32_t type)
{
    static _Thread_local char text[24];
    const struct tensor_type_info *info = tensor_type_info(type);
    if (info)
        return info->name;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (refused[i].id == type)
            return refused[i].name;
    }
    snprintf(text, sizeof text, "type %lu", (unsigned long)type);
    return text;
}

const char *tensor_type_supported(void)
{
    return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4";
}

size_t tensor_type_row_bytes(enum tensor_type type, uint64_t n_elements)
{
    const struct tensor_type_info *info = tensor_type_info((uint32_t)type);
    size_t bytes;
    if (!info || __builtin_mul_overflow(n_elements / info->block_elements, (uint64_t)info->block_bytes, &bytes))
        return SIZE_MAX;
    return bytes;
}
